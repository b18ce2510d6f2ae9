"""What all arms start from: the SFT adapter of the demonstration's line `permits-rlhf`, its prompts, and its tools.

    python prepare.py --model DIR --out DIR

The line runs up to its SFT adapter through the real stages, in a home of its own under --out. Started by `run.py`.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path

import yaml
from transformers import AutoTokenizer

from benchmarks.harness import say, trust_demonstration
from benchmarks.rlhf.task import Prepared
from sovereign_pipeline.base.settings import PROJECT_ROOT, Settings, go_offline
from sovereign_pipeline.base_models.stages import read_descriptor
from sovereign_pipeline.dataset.stages import TRAINING_DATASET
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.privacy.vault_cli import keygen
from sovereign_pipeline.record.gates import evaluate_gates
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.production import produce
from sovereign_pipeline.record.stage import Stage, Workplace
from sovereign_pipeline.split.stages import LEAKAGE_SAFE_SPLIT
from sovereign_pipeline.training.launcher import run_trainer
from sovereign_pipeline.training.rlhf.prompts import (
    halves,
    read_prompts,
    write_held_out_prompts,
    write_training_prompts,
)
from sovereign_pipeline.training.rlhf.rewards import copy_code
from sovereign_pipeline.training.stages import SFT_ADAPTER
from sovereign_pipeline.workplace import open_workplace

LINE = "permits-rlhf"
PREFERENCE = {"method": "dpo", "beta": 0.1, "learning_rate": 5e-5, "gradient_accumulation": 2}
"""As the demonstration's line with preferences has it."""
HELD_OUT_SHARE, MEASURED_PROMPTS = 0.3, 24
"""More is held out than in the demonstration, whose 24 letters are too few to tell the arms apart, and as many of them
are measured while a job learns."""
EVERY = 10**6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    arguments = parser.parse_args()
    go_offline()
    workplace = workplace_in(arguments.out / "home", arguments.model)
    refs: dict[str, ArtifactRef] = {}
    make(SFT_ADAPTER, workplace, refs)
    write(workplace, refs, arguments.model, Prepared(arguments.out))


def workplace_in(home: Path, model: Path) -> Workplace:
    """The demonstration's institution in a home with keys of its own; of the line, other sizes of the held-out side."""
    data = home / "data"
    shutil.copytree(PROJECT_ROOT / "data", data, ignore=shutil.ignore_patterns("trust"))
    file = data / "lines" / f"{LINE}.yaml"
    recipe = yaml.safe_load(file.read_text(encoding="utf-8"))
    recipe["split"] = {"held_out_share": HELD_OUT_SHARE}
    recipe["training"]["rlhf"]["measured_prompts"] = MEASURED_PROMPTS
    file.write_text(yaml.safe_dump(recipe, allow_unicode=True), encoding="utf-8")
    (home / "models").mkdir()
    (home / "models" / model.name).symlink_to(model.resolve())
    settings = Settings(home=home, data=data)
    keygen(home.with_name("home-offline") / "vault.key", settings.vault_public_key)
    trust_demonstration(settings)
    return open_workplace(settings, LINE, say, lambda job: run_trainer(job, say), with_corpus=lambda line: True)


def make(stage: Stage, workplace: Workplace, refs: dict[str, ArtifactRef]) -> None:
    """The stage and all that it is made from. Ends the program when a gate does not pass."""
    for each in stage.inputs:
        if each.kind not in refs:
            make(each, workplace, refs)
    say(f"preparing: {stage.kind}")
    ref = produce(stage, workplace, {each.kind: refs[each.kind] for each in stage.inputs}).ref
    workplace.store.make_current(LINE, stage.kind, ref)
    refused = {name: each.message for name, each in evaluate_gates(stage, workplace, ref).items() if not each.passed}
    if refused:
        sys.exit(f"{stage.kind}: {refused}")
    refs[stage.kind] = ref


def write(workplace: Workplace, refs: dict[str, ArtifactRef], model: Path, prepared: Prepared) -> None:
    store, training = workplace.store, workplace.line.training
    assert training.rlhf is not None
    dataset = store.open(refs[TRAINING_DATASET.kind])
    split = store.open_input(dataset.manifest, LEAKAGE_SAFE_SPLIT.kind)
    write_training_prompts(prepared.prompts, dataset, split)
    write_held_out_prompts(
        prepared.held_out, split, training.instruction, training.rlhf.measured_prompts, training.seed
    )
    descriptor = read_descriptor(store.open(refs["base_model"]))
    facts = {
        "model": str(model),
        "parent": str(store.open(refs[SFT_ADAPTER.kind]).path / "adapter"),
        "base": {key: descriptor[key] for key in ("name", "digest", "chat_template_sha256")},
        "eos_ids": descriptor["eos_ids"],
        "sft": training.sft.model_dump(mode="json"),
        "rlhf": training.rlhf.model_dump(mode="json", exclude_unset=True),
        "preference": PREFERENCE,
        "code": copy_code(workplace.settings.data, training.rlhf, prepared.code),
        "data": str(workplace.settings.data),
    }
    (prepared.directory / "facts.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    every = prepared.directory / "every_held_out.jsonl"
    write_held_out_prompts(every, split, training.instruction, EVERY, training.seed)
    unseen = unseen_prompts(workplace.line, every, prepared, model)
    prepared.judged.write_text("".join(unseen), encoding="utf-8")
    say(f"preparing: {len(unseen)} held-out prompts to compare the arms on")


def unseen_prompts(line: Line, every: Path, prepared: Prepared, model: Path) -> list[str]:
    """Lines of the held-out prompts of which no job's adapter is chosen by one of the same case file."""
    assert line.training.rlhf is not None
    facts = prepared.facts
    tokenizer = AutoTokenizer.from_pretrained(model)
    room = line.training.sft.max_length - line.training.rlhf.max_new_tokens
    of_job, _ = read_prompts(prepared.held_out, tokenizer, facts["eos_ids"], room)
    all_prompts, _ = read_prompts(every, tokenizer, facts["eos_ids"], room)
    watched = {prompt.row.case for prompt in halves(of_job)[0]}
    return [each.row.model_dump_json() + "\n" for each in all_prompts if each.row.case not in watched]


if __name__ == "__main__":
    main()
