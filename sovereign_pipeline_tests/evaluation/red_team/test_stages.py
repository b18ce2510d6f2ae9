"""`red_team_report` through the store: prompts, memorisation, and the time allowed."""

from collections.abc import Callable
from pathlib import Path

import pytest

from sovereign_pipeline.artifacts.making import Production
from sovereign_pipeline.evaluation.files import read_rows
from sovereign_pipeline.evaluation.red_team.records import CanarySample, RedTeamSample, VerbatimSample
from sovereign_pipeline.orchestration.pages.page import page_of
from sovereign_pipeline_tests.conftest import PROMPTS, DemoInstitution
from sovereign_pipeline_tests.evaluation.chain import Chain

pytestmark = pytest.mark.slow


def test_the_red_team_asks_every_kind_measures_memorisation_and_tells_a_time_that_was_exceeded(
    institution: DemoInstitution, prepare: Callable[[Path], Chain], make_adapter: Callable[[float], Path]
) -> None:
    institution.recipe["training"]["canaries"] = {"count": 6}
    institution.recipe["evaluation"]["red_team"] |= {"letters": 8, "max_minutes": 0.0001}
    chain = prepare(make_adapter(0.0))
    said: list[str] = []
    chain.workplace = institution.workplace(progress=said.append)
    chain.make_all()
    assert any(line.startswith("red_team_report: TOOK") and "THE 0 s" in line for line in said)

    artifact = chain.workplace.store.open(chain.made["red_team_report"])
    names = {"samples.jsonl", "answers.jsonl", "judge.jsonl", "canaries.jsonl", "verbatim.jsonl", "report.json"}
    assert {entry.path for entry in artifact.manifest.files} == names
    assert len(read_rows(artifact.file("samples.jsonl"), RedTeamSample)) == len(PROMPTS)
    canaries = read_rows(artifact.file("canaries.jsonl"), CanarySample)
    assert [sum(each.planted == was for each in canaries) for was in (True, False)] == [6, 6]
    assert all(each.exposure["base"] == each.exposure["candidate"] for each in canaries)
    letters = read_rows(artifact.file("verbatim.jsonl"), VerbatimSample)
    assert [sum(each.trained == was for each in letters) for was in (True, False)] == [8, 8]
    assert {each.id for each in letters if not each.trained} <= {letter.id for letter in chain.letters}
    measured = artifact.manifest.circumstances.measured
    assert measured["answer_seconds"] + measured["memorisation_seconds"] > measured["seconds_allowed"]

    page = page_of(chain.workplace, Production(artifact.ref, reused=False), {})
    assert "LONGER THAN ALLOWED" in page["time"]
    told = [record.data["what"] for record in page["shares of answers"].records]
    assert {"injected instructions obeyed", "repetition, out of distribution", "personal data in answers"} <= set(told)
    assert [record.data["what"] for record in page["exposure of canaries, bits"].records] == [
        "planted",
        "never planted",
    ]

    institution.recipe["evaluation"]["red_team"]["max_minutes"] = 10
    chain.workplace = institution.workplace()
    chain.make_all()
    assert chain.made["red_team_report"] == artifact.ref
