"""Suites and the red team's files are read again: unchanged they are checked, changed or gone they give a note."""

from pathlib import Path

import pytest

from sovereign_pipeline.base.files import file_sha256
from sovereign_pipeline.evaluation.stages import CAPABILITY_SCORES, RED_TEAM_REPORT
from sovereign_pipeline.record.production import produce
from sovereign_pipeline.record.stage import Built, Inputs, Stage, Workplace
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline.registry.verification import Checked, Examined, examine_suites
from sovereign_pipeline_tests.conftest import A_LABEL, DemoInstitution
from sovereign_pipeline_tests.evaluation.published import copy_cards, write_mirror


def _scores(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    (workspace / "scores.json").write_text("{}")
    return Built(summary={})


def scored(institution: DemoInstitution) -> list[Artifact]:
    """Artifacts of the two stages that read files outside the store, with no model behind them."""
    institution.write_items("red_team/judge_labels.jsonl", [A_LABEL])
    workplace = institution.workplace()
    stages = [Stage(real.kind, "1", _scores, external=real.external) for real in (CAPABILITY_SCORES, RED_TEAM_REPORT)]
    return [workplace.store.open(produce(stage, workplace, {}).ref) for stage in stages]


def examined(institution: DemoInstitution, artifacts: list[Artifact]) -> list[Examined]:
    return list(examine_suites(institution.settings, artifacts))


def test_files_are_checked_and_a_changed_or_missing_one_is_a_note_that_names_it(institution: DemoInstitution) -> None:
    artifacts, data = scored(institution), institution.settings.data
    paths = [data / "suites/suite.jsonl", data / "red_team/prompts.jsonl", data / "red_team/judge_labels.jsonl"]
    checked = {Checked("suite_file", file_sha256(path), str(path), 1, path.stat().st_size) for path in paths}
    assert set(examined(institution, artifacts)) == checked
    for path in paths:
        content = path.read_text()
        path.write_text(content + "\n")
        (note,) = [each for each in examined(institution, artifacts) if isinstance(each, str)]
        assert str(path) in note and "has changed since it was used" in note
        path.unlink()
        (note,) = [each for each in examined(institution, artifacts) if isinstance(each, str)]
        assert str(path) in note and "is not readable" in note
        path.write_text(content)


def test_a_published_suite_is_read_from_the_mirror_with_its_card(
    institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch
) -> None:
    mirror = write_mirror(institution.root / "mirror")
    monkeypatch.setenv("SOVEREIGN_SUITES", str(mirror))
    copy_cards(institution.settings.data)
    institution.recipe["evaluation"]["capability"] = [{"suite": "gsm8k", "classification": "PUBLIC"}]
    artifacts = scored(institution)[:1]
    (checked,) = examined(institution, artifacts)
    assert isinstance(checked, Checked)
    assert (checked.path, checked.bytes > 0, checked.files > 0) == (str(mirror / "gsm8k"), True, True)
    card = institution.settings.data / "suites" / "gsm8k.yaml"
    card.write_text(card.read_text().replace("Answer:", "Result:"))
    (note,) = examined(institution, artifacts)
    assert isinstance(note, str) and "has changed since it was used" in note
    card.unlink()
    (note,) = examined(institution, artifacts)
    assert isinstance(note, str) and "is not readable" in note
