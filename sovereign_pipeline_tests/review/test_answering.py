"""Both arms of a review with real models, tiny ones: the same settings, each its own weights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from sovereign_pipeline.base.files import digest_of, file_sha256
from sovereign_pipeline.evaluation.arms.models import open_models
from sovereign_pipeline.record.production import produce
from sovereign_pipeline.record.stage import Built, Inputs, Stage, Workplace
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline.review.plan import AnswerPair, Prompt
from sovereign_pipeline.review.stages import open_contenders
from sovereign_pipeline.training.tuned_model import TunedModel
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.evaluation.conftest import base_model, letters, make_adapter  # noqa: F401 (fixtures)

PROMPTS = [
    Prompt(id="P-1", language="en", text="The lamp number 3 is broken, when will it be mended?"),
    Prompt(id="P-2", language="ar", text="متى يُصلح المصباح؟"),
]


def record(workplace: Workplace, model: Path, adapter: Path) -> Artifact:
    """A registered_adapter artifact over a base model and an adapter, as far as a review reads it."""
    files = {file.name: file_sha256(file) for file in sorted(model.iterdir())}
    card = {"name": model.name, "licence": "none", "classification": "PUBLIC", "files": files}
    path = workplace.settings.data / "models" / f"{model.name}.yaml"
    path.write_text(yaml.safe_dump({**card, "source": {"directory": str(model)}}))

    def describe(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        described = {**card, "digest": digest_of(files)}
        (workspace / "base_model.json").write_text(json.dumps(described, sort_keys=True))
        return Built(summary={}, classification="PUBLIC")

    def adopt(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        shutil.copytree(adapter, workspace / "adapter")
        return Built(summary={}, classification="PUBLIC")

    def note(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        (workspace / "record.json").write_text("{}\n")
        return Built(summary={})

    base = Stage("base_model", str(model), describe)
    tuned = Stage("aligned_adapter", str(adapter), adopt)
    refs = {}
    for stage in (base, tuned):
        refs[stage.kind] = produce(stage, workplace, {}).ref
        workplace.store.make_current(workplace.line.line, stage.kind, refs[stage.kind])
    registered = Stage("registered_adapter", "1", note, (base, tuned))
    return workplace.store.open(produce(registered, workplace, refs).ref)


def answers(workplace: Workplace, candidate: Artifact, opponent: Artifact | None) -> list[AnswerPair]:
    with open_contenders(workplace, candidate, opponent) as models:
        assert all(models.fits(prompt, 24) for prompt in PROMPTS)
        assert not models.fits(PROMPTS[0], 10_000)
        return models.answer(PROMPTS, 24, 2)


@pytest.fixture(scope="module")
def adapters(make_adapter: Callable[[float], Path]) -> tuple[Path, Path]:  # noqa: F811
    return make_adapter(5e-3), make_adapter(-5e-3)


def test_the_candidate_answers_with_its_adapter_and_the_opponent_with_its_own_or_none(
    institution: DemoInstitution,
    base_model: Path,  # noqa: F811
    adapters: tuple[Path, Path],
    tmp_path: Path,
) -> None:
    workplace = institution.workplace()
    better, worse = adapters
    elsewhere = tmp_path / "other-model"
    shutil.copytree(base_model, elsewhere)
    first, second = record(workplace, base_model, better), record(workplace, base_model, worse)
    on_another_base = record(workplace, elsewhere, worse)
    against_base = answers(workplace, first, None)
    against_other = answers(workplace, first, second)
    assert [each.id for each in against_base] == ["P-1", "P-2"]
    assert [each.candidate for each in against_base] == [each.candidate for each in against_other]
    assert all(each.candidate != each.opponent for each in against_base)
    # Where the two stand on different base models, both are loaded; here they hold the same bytes.
    assert answers(workplace, first, on_another_base) == against_other
    # The other way round, each says what it said before.
    turned = answers(workplace, second, first)
    assert [(each.opponent, each.candidate) for each in turned] == [
        (each.candidate, each.opponent) for each in against_other
    ]
    assert all(each.is_identical for each in answers(workplace, first, first))
    with open_models(base_model, {"candidate": TunedModel("adapter", better)}, precision="float32") as models:
        turns = [{"role": "user", "content": f"Answer this letter.\n\n{PROMPTS[0].text}"}]
        text = models.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False)
        (direct,) = models.answer([text], "candidate", 24, 2)
    assert direct.text.strip() == against_base[0].candidate
