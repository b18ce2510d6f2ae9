"""The gates of `reward_model`: what it is worth on held-out pairs, and whether it is what the recipe asks for.

Each computes its verdict from files, never from the report, except where it checks the report itself.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from sovereign_pipeline.artifacts.stage import Inputs, Verdict, Workplace
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.base.files import digest_of, short
from sovereign_pipeline.base.settings import go_offline
from sovereign_pipeline.base_models.verified import open_base_model, read_descriptor
from sovereign_pipeline.corpus.document import read_jsonl
from sovereign_pipeline.dataset.jsonl import PREFERENCE_ROWS, PairLayout, PreferenceRow, documents_of, preference_row
from sovereign_pipeline.dataset.stages import PREFERENCE_DATASET
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.split import HELD_OUT
from sovereign_pipeline.split.stages import LEAKAGE_SAFE_SPLIT
from sovereign_pipeline.training.gates.device import device_of_gate
from sovereign_pipeline.training.loop.lora import expected_lora_tensors, lora_settings
from sovereign_pipeline.training.loop.rows import encode
from sovereign_pipeline.training.reward_model.accuracy import CHANCE, HeldOutAccuracy, PairScore, held_out_accuracy
from sovereign_pipeline.training.reward_model.report import HELD_OUT_SCORES, read_reward_report
from sovereign_pipeline.training.reward_model.scoring import HEAD, REWARD_DIRECTORY, read_scorer
from sovereign_pipeline.training.tuned_model import ADAPTER_CONFIG, ADAPTER_WEIGHTS

TOLD_APART = "pairs_told_apart"
COMPLETE = "reward_model_complete"
LARGEST_DIFFERENCE = {"float32": 0.02, "bfloat16": 0.5}
"""Between a score of the trainer's and the gate's own, logits; other threads and batches round differently."""


def held_out_pairs(line: Line, split: Artifact) -> list[PreferenceRow]:
    """The preference pairs of the held-out side, as rows like those that are trained on."""
    documents = documents_of(PairLayout(), split, HELD_OUT)
    return [preference_row(document, line.training.instruction) for document in documents]


def evaluate_told_apart(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Score the held-out pairs again. Passes when the accuracy's interval lies above chance.

    It is inconclusive when the interval includes chance, and fails when it lies below, or when the recorded scores are
    not those of this model. The baselines are reported and decide nothing.
    """
    go_offline()
    from transformers import AutoTokenizer

    section = workplace.line.training.reward_model
    assert section is not None
    base = open_base_model(workplace.settings, inputs["base_model"], workplace.progress)
    pairs = held_out_pairs(workplace.line, inputs[LEAKAGE_SAFE_SPLIT.kind])
    tokenizer = AutoTokenizer.from_pretrained(base)
    ends = read_descriptor(inputs["base_model"])["eos_ids"]
    encoded = [encode(tokenizer, "reward", dict(row), ends) for row in pairs]
    kept = [(row, pair) for row, pair in zip(encoded, pairs, strict=True) if row.longest <= section.max_length]
    workplace.progress(f"gate {TOLD_APART}: scoring {len(kept)} held-out pairs")
    with device_of_gate(workplace):
        scorer = read_scorer(base, artifact.path / REWARD_DIRECTORY, workplace.line.training.sft)
        scores = scorer.pair_scores([row for row, _ in kept])
    wild = sum(not math.isfinite(each.margin) for each in scores)
    if wild or not scores:
        return Verdict(
            False, f"{wild} of {len(scores)} held-out pairs have scores that are not finite.", {"pairs": len(scores)}
        )
    training = cast(list[PreferenceRow], list(read_jsonl(inputs[PREFERENCE_DATASET.kind].file(PREFERENCE_ROWS))))
    found = held_out_accuracy(scores, [pair for _, pair in kept], training)
    evidence = {**found.model_dump(mode="json"), "pairs": len(kept)}
    precision = workplace.line.training.sft.precision
    differing = _differing(artifact, scores, LARGEST_DIFFERENCE[precision])
    if differing:
        return Verdict(False, f"{differing} of {len(kept)} recorded scores are not those of this model.", evidence)
    above = found.accuracy.low > CHANCE
    return Verdict(above, _message(found), evidence, inconclusive=not above and found.accuracy.high >= CHANCE)


def _differing(artifact: Artifact, scores: Sequence[PairScore], largest: float) -> int:
    recorded = [PairScore.model_validate(row) for row in read_jsonl(artifact.file(HELD_OUT_SCORES))]
    if [each.id for each in recorded] != [each.id for each in scores]:
        return max(len(recorded), len(scores))
    return sum(
        not max(abs(one.chosen - other.chosen), abs(one.rejected - other.rejected)) <= largest
        for one, other in zip(recorded, scores, strict=True)
    )


def _message(found: HeldOutAccuracy) -> str:
    return (
        f"It prefers the chosen reply in {found.accuracy} of {found.accuracy.of} held-out pairs; chance is {CHANCE}. "
        f"The reply's length alone: {found.length_only}; single words alone: {found.words_only}. Where the length is "
        f"wrong: {found.where_length_is_wrong} of {found.where_length_is_wrong.of}."
    )


def evaluate_complete(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    """Compare tensors, settings and base model with the recipe's; nothing may be zero that learned, or infinite."""
    go_offline()
    base = open_base_model(workplace.settings, inputs["base_model"], workplace.progress)
    descriptor = read_descriptor(inputs["base_model"])
    trained_on = read_reward_report(artifact).base_model
    problems = _problems_of_weights(base, artifact.path / REWARD_DIRECTORY, workplace.line)
    if digest_of(descriptor["files"]) != trained_on.digest:
        problems.append(f"it was trained on the base model {short(trained_on.digest)}")
    if descriptor["chat_template_sha256"] != trained_on.chat_template_sha256:
        problems.append("it was trained with another chat template")
    if problems:
        return Verdict(False, f"The reward model is not what the recipe asks for: {'; '.join(problems)}.", {})
    return Verdict(
        True,
        f"Adapter and head are the recipe's, finite and changed; the base model is {short(trained_on.digest)}.",
        {"base_model": trained_on.digest},
    )


def _problems_of_weights(base: Path, directory: Path, line: Line) -> list[str]:
    import torch
    from safetensors.torch import load_file

    sft = line.training.sft
    config: dict[str, Any] = json.loads((directory / ADAPTER_CONFIG).read_bytes())
    tensors = load_file(directory / ADAPTER_WEIGHTS)
    head = tensors.get(HEAD)
    expected = expected_lora_tensors(base, sft)
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items() if name != HEAD}
    wrong = [name for name in expected.keys() | found.keys() if expected.get(name) != found.get(name)]
    not_finite = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    dead = [name for name, tensor in tensors.items() if ".lora_B." in name and not bool(tensor.any())]
    unlike = [name for name, value in lora_settings(sft).items() if config.get(name) != value]
    return [
        *([f"{len(wrong)} tensors are missing, additional or of another shape"] if wrong else []),
        *(["it has no head of one score, or one of zeros"] if head is None or len(head) != 1 or not head.any() else []),
        *([f"{len(not_finite)} tensors are not finite"] if not_finite else []),
        *([f"{len(dead)} LoRA-B matrices are zero"] if dead else []),
        *([f"other settings: {', '.join(unlike)}"] if unlike else []),
    ]
