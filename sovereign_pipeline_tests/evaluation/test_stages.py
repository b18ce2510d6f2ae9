"""The whole evaluation through the store."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from sovereign_pipeline.base.errors import CeilingExceeded, SourceError
from sovereign_pipeline.base.files import digest_of
from sovereign_pipeline.dagster.asset_page import page_of
from sovereign_pipeline.evaluation.records import (
    CanarySample,
    CapabilityScores,
    PrivateScores,
    RedTeamSample,
    VerbatimSample,
    read_rows,
)
from sovereign_pipeline.evaluation.report.looks import MEASURED
from sovereign_pipeline.evaluation.stages import CAPABILITY_SCORES
from sovereign_pipeline.record.audit_log import entries
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.record.stage import Production
from sovereign_pipeline_tests.conftest import PROMPTS, DemoInstitution
from sovereign_pipeline_tests.evaluation.chain import CUT, QUESTIONS, Chain, jsonl
from sovereign_pipeline_tests.evaluation.published import copy_cards, write_mirror, write_text
from sovereign_pipeline_tests.evaluation.report.planted import figure

pytestmark = pytest.mark.slow


def test_a_trained_adapter_reaches_a_passing_report_and_again_the_same(
    prepare: Callable[[Path], Chain], make_adapter: Callable[[float], Path]
) -> None:
    adapter = make_adapter(5e-3)
    chain = prepare(adapter)
    chain.make_all()
    report = chain.report()
    assert report.outcome == "pass"
    assert figure(report, "held-out loss").high < 0
    manifest = chain.workplace.store.read_manifest(chain.made["evaluation_report"])
    assert manifest.classification == "CONFIDENTIAL"
    assert set(chain.workplace.store.read_manifest(chain.made["capability_scores"]).external_inputs) == {"suite"}
    for kind in ("capability_scores", "private_scores", "red_team_report", "evaluation_report"):
        text = chain.workplace.store.read_manifest(chain.made[kind]).to_bytes().decode()
        assert "mended" not in text

    measured = {kind: digest_of_files(chain, kind) for kind in ("private_scores", "red_team_report")}
    assert [entered(chain, kind) for kind in measured] == [[each] for each in measured.values()]

    shutil.rmtree(chain.workplace.store.root)
    again = prepare(adapter)
    again.make_all()
    assert [entered(chain, kind) for kind in measured] == [[each] for each in measured.values()], "and nothing more"
    digests = {kind: ref.digest for kind, ref in chain.made.items()}
    assert {kind: ref.digest for kind, ref in again.made.items()} == digests


def digest_of_files(chain: Chain, kind: str) -> str:
    return digest_of({each.path: each.sha256 for each in chain.workplace.store.read_manifest(chain.made[kind]).files})


def entered(chain: Chain, kind: str) -> list[str]:
    """The figures of a score in the ledger."""
    found = [each.subjects for each in entries(open_registry(chain.workplace.settings)) if each.action == MEASURED]
    return [each["files"] for each in found if each["score"] == kind]


def test_a_model_tuned_in_full_is_evaluated_against_its_base(
    prepare: Callable[..., Chain], make_adapter: Callable[[float], Path], make_model: Callable[[Path], Path]
) -> None:
    chain = prepare(make_model(make_adapter(5e-3)), "model")
    chain.make_all()
    report = chain.report()
    assert report.outcome == "pass"
    assert figure(report, "held-out loss").high < 0


@pytest.mark.parametrize("secret", ["capability_scores", "red_team_report"])
def test_scores_are_as_high_as_what_was_asked_and_stop_above_the_ceiling(
    institution: DemoInstitution,
    prepare: Callable[[Path], Chain],
    make_adapter: Callable[[float], Path],
    secret: str,
) -> None:
    evaluation = institution.recipe["evaluation"]
    asked = evaluation["red_team"] if secret == "red_team_report" else evaluation["capability"][0]
    asked["classification"] = "SECRET"
    chain = prepare(make_adapter(0.0))
    chain.make_all()
    levels = {kind: chain.workplace.store.read_manifest(ref).classification for kind, ref in chain.made.items()}
    high = {kind for kind, level in levels.items() if level == "SECRET"}
    assert high == {secret, "evaluation_report"}
    assert levels["private_scores"] == "CONFIDENTIAL"

    institution.recipe["ceiling"] = "CONFIDENTIAL"
    chain.workplace = institution.workplace()
    with pytest.raises(CeilingExceeded, match=r"at most, and the (suite 'suite'|red team's material) is SECRET"):
        chain.make_all()


def test_an_adapter_of_zeros_fails_and_a_changed_suite_is_other_work(
    prepare: Callable[[Path], Chain], make_adapter: Callable[[float], Path]
) -> None:
    chain = prepare(make_adapter(0.0))
    chain.make_all()
    report = chain.report()
    assert report.outcome == "inconclusive"
    assert report.finding("held_out_loss_improves").outcome == "inconclusive"
    assert figure(report, "held-out loss").difference == 0.0

    before = chain.made["capability_scores"], chain.made["private_scores"]
    suite = chain.workplace.settings.data / "suites" / "suite.jsonl"
    suite.write_text(jsonl(QUESTIONS[:4]))
    chain.make_all()
    assert chain.made["capability_scores"] != before[0]
    assert chain.made["private_scores"] == before[1]

    suite.unlink()
    with pytest.raises(SourceError, match=r"suite\.jsonl does not exist"):
        chain.make_all()


def test_published_suites_are_asked_from_the_mirror_and_kept_apart_by_files_words_and_rows(
    institution: DemoInstitution,
    prepare: Callable[[Path], Chain],
    make_adapter: Callable[[float], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mirror = write_mirror(institution.root / "mirror")
    monkeypatch.setenv("SOVEREIGN_SUITES", str(mirror))
    copy_cards(institution.settings.data)
    published: list[dict[str, object]] = [
        {"suite": "mmlu", "max_rows": 4, "few_shot": 1},
        {"suite": "gsm8k", "few_shot": 0, "max_rows": 2},
        {"suite": "arc_challenge"},
    ]
    entries = institution.recipe["evaluation"]["capability"]
    entries += [{**entry, "classification": "PUBLIC"} for entry in published]
    institution.recipe["evaluation"]["references"] = {"max_new_tokens": 8, "max_rows": 2}
    card = institution.settings.data / "suites" / "gsm8k.yaml"
    card.write_text(card.read_text().replace("max_new_tokens: 256", "max_new_tokens: 8"))
    chain = prepare(make_adapter(5e-3))
    chain.make_all()
    manifest = chain.workplace.store.read_manifest(chain.made["capability_scores"])
    assert set(manifest.external_inputs) == {"suite", "mmlu", "gsm8k", "arc_challenge"}
    scores = CapabilityScores.model_validate_json(chain.text("capability_scores", "scores.json"))
    assert {name: (each.asked, each.rows) for name, each in scores.selections.items()} == {
        "suite": (6, 6),
        "mmlu": (4, 12),
        "gsm8k": (2, 3),
        "arc_challenge": (2, 2),
    }
    answers = [json.loads(line) for line in chain.text("capability_scores", "answers.jsonl").splitlines()]
    assert [(each["suite"], set(each["answers"])) for each in answers] == [("gsm8k", {"base", "candidate"})] * 2
    assert {each.what for each in chain.report().figures} > set(scores.suites)
    assert "Salma" not in chain.text("capability_scores", "samples.jsonl") + manifest.to_bytes().decode()
    replies = PrivateScores.model_validate_json(chain.text("private_scores", "scores.json")).replies
    assert replies is not None and replies.rouge_l["base"].rows == 2
    shown = {each.what for each in chain.report().figures}
    assert {"likeness to the true reply, chrF", "length of a reply to a letter", "gsm8k: length of an answer"} <= shown
    for name in ("replies.jsonl", "answers.jsonl"):
        assert len(chain.text("private_scores", name).splitlines()) == 2

    def identity() -> str:
        return digest_of([CAPABILITY_SCORES.config_at(chain.workplace), CAPABILITY_SCORES.external(chain.workplace)])

    seen = [identity()]
    entries[1]["max_rows"] = 5
    chain.workplace = institution.workplace()
    seen.append(identity())
    card.write_text(card.read_text().replace("Answer:", "Result:"))
    seen.append(identity())
    write_text(mirror / "arc_challenge" / "arc_challenge.jsonl", ONE_MORE)
    seen.append(identity())
    assert len(set(seen)) == 4
    for file in (mirror / "mmlu" / "dev").iterdir():
        file.unlink()
    with pytest.raises(SourceError, match="The suite 'mmlu' is incomplete"):
        chain.make_all()


ONE_MORE = '{"query": "Question: What sinks?", "choices": ["a stone", "a boat"], "gold": 0}\n'


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
    assert {each.id for each in letters if each.trained}.isdisjoint(CUT)
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
