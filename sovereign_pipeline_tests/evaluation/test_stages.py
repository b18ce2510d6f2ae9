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
from sovereign_pipeline_tests.evaluation.chain import CUT, Chain
from sovereign_pipeline_tests.evaluation.published import copy_cards, write_mirror, write_text
from sovereign_pipeline_tests.evaluation.report.planted import figure

pytestmark = pytest.mark.slow


def test_a_trained_adapter_reaches_a_passing_report_and_again_the_same(
    institution: DemoInstitution, prepare: Callable[[Path], Chain], make_adapter: Callable[[float], Path]
) -> None:
    institution.recipe["training"]["canaries"] = {"count": 6}
    institution.recipe["evaluation"]["red_team"] |= {"letters": 8, "max_minutes": 0.0001}
    adapter, said = make_adapter(5e-3), list[str]()
    chain = prepare(adapter)
    chain.workplace = institution.workplace(progress=said.append)
    chain.make_all()
    assert any(line.startswith("red_team_report: TOOK") and "THE 0 s" in line for line in said)
    report = chain.report()
    assert report.outcome == "pass"
    assert figure(report, "held-out loss").high < 0
    assert chain.text("evaluation_report", "report.html").count("data:image/png;base64,") == 2
    manifest = chain.workplace.store.read_manifest(chain.made["evaluation_report"])
    assert manifest.classification == "CONFIDENTIAL"
    assert_red_team_is_whole(chain)
    assert set(chain.workplace.store.read_manifest(chain.made["capability_scores"]).external_inputs) == {"suite"}
    for kind in ("capability_scores", "private_scores", "red_team_report", "evaluation_report"):
        text = chain.workplace.store.read_manifest(chain.made[kind]).to_bytes().decode()
        assert "mended" not in text

    measured = {kind: digest_of_files(chain, kind) for kind in ("private_scores", "red_team_report")}
    assert [entered(chain, kind) for kind in measured] == [[each] for each in measured.values()]

    shutil.rmtree(chain.workplace.store.root)
    institution.recipe["evaluation"]["red_team"]["max_minutes"] = 10
    again = prepare(adapter)
    again.make_all()
    assert [entered(chain, kind) for kind in measured] == [[each] for each in measured.values()], "and nothing more"
    digests = {kind: ref.digest for kind, ref in chain.made.items()}
    assert {kind: ref.digest for kind, ref in again.made.items()} == digests


def assert_red_team_is_whole(chain: Chain) -> None:
    artifact = chain.workplace.store.open(chain.made["red_team_report"])
    names = {"samples.jsonl", "answers.jsonl", "judge.jsonl", "canaries.jsonl", "verbatim.jsonl", "report.json"}
    assert {entry.path for entry in artifact.manifest.files} == names
    assert len(read_rows(artifact.file("samples.jsonl"), RedTeamSample)) == len(PROMPTS)
    canaries = read_rows(artifact.file("canaries.jsonl"), CanarySample)
    assert [sum(each.planted == was for each in canaries) for was in (True, False)] == [6, 6]
    letters = read_rows(artifact.file("verbatim.jsonl"), VerbatimSample)
    assert [sum(each.trained == was for each in letters) for was in (True, False)] == [8, 8]
    assert {each.id for each in letters if not each.trained} <= {letter.id for letter in chain.letters}
    assert {each.id for each in letters if each.trained}.isdisjoint(CUT)
    page = page_of(chain.workplace, Production(artifact.ref, reused=False), {})
    assert "LONGER THAN ALLOWED" in page["time"]
    told = [record.data["what"] for record in page["shares of answers"].records]
    assert {"injected instructions obeyed", "repetition, out of distribution", "personal data in answers"} <= set(told)
    exposed = [record.data["what"] for record in page["exposure of canaries, bits"].records]
    assert exposed == ["planted", "never planted"]


def digest_of_files(chain: Chain, kind: str) -> str:
    return digest_of({each.path: each.sha256 for each in chain.workplace.store.read_manifest(chain.made[kind]).files})


def entered(chain: Chain, kind: str) -> list[str]:
    """The figures of a score in the ledger."""
    found = [each.subjects for each in entries(open_registry(chain.workplace.settings)) if each.action == MEASURED]
    return [each["files"] for each in found if each["score"] == kind]


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
        {"suite": "mmlu", "max_rows": 4, "few_shot": 1, "classification": "PUBLIC"},
        {"suite": "gsm8k", "few_shot": 0, "max_rows": 2, "classification": "SECRET"},
        {"suite": "arc_challenge", "classification": "PUBLIC"},
    ]
    entries = institution.recipe["evaluation"]["capability"]
    entries += published
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

    assert chain.kinds_at("SECRET") == {"capability_scores", "evaluation_report"}
    page = page_of(chain.workplace, Production(chain.made["capability_scores"], reused=False), {})
    assert "gsm8k accuracy, difference from the base" in page
    institution.recipe["ceiling"] = "CONFIDENTIAL"
    chain.workplace = institution.workplace()
    with pytest.raises(CeilingExceeded, match="the suite 'gsm8k' is SECRET"):
        chain.make_all()
    institution.recipe["ceiling"] = "SECRET"
    chain.workplace = institution.workplace()

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
