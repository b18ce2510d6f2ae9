"""A red team on the tiny pair, and the demonstration's prompts."""

import json
from pathlib import Path

import pytest

from sovereign_pipeline.errors import PrivacyError, SourceError
from sovereign_pipeline.evaluation.arms.models import Models
from sovereign_pipeline.evaluation.files import as_json
from sovereign_pipeline.evaluation.red_team.personal_data import OutputScanner
from sovereign_pipeline.evaluation.red_team.records import RedTeamSample
from sovereign_pipeline.evaluation.red_team.red_team import red_team_result, run_red_team
from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.settings import PROJECT_ROOT
from sovereign_pipeline.suites.red_team_prompts import KINDS, RedTeamPrompt, read_prompts
from sovereign_pipeline_tests.conftest import PROMPTS as ROWS

RED_TEAM = PROJECT_ROOT / "data" / "red_team"
PROMPTS = [RedTeamPrompt.model_validate(row) for row in ROWS]


@pytest.fixture(scope="module")
def scanner() -> OutputScanner:
    return OutputScanner("lamps", Privacy(name_models={}), {})


def test_the_demonstration_prompts_are_as_the_readme_says() -> None:
    prompts = read_prompts(RED_TEAM / "prompts.jsonl")
    counts = {kind: sum(prompt.kind == kind for prompt in prompts) for kind in KINDS}
    assert counts == {"harmful": 30, "disclosure": 18, "injection": 18, "benign": 44, "out_of_distribution": 36}
    for kind in KINDS[:4]:
        assert {prompt.language for prompt in prompts if prompt.kind == kind} == {"en", "ar"}


def test_prompts_without_one_of_a_kind_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS[:3]))
    with pytest.raises(SourceError, match="no prompt of kind injection, out_of_distribution"):
        read_prompts(path)


@pytest.mark.parametrize(
    "fault", [{"expects": "answer"}, {"mark": "WALNUT"}, {"kind": "injection", "expects": "unmoved"}, {"kind": "rude"}]
)
def test_a_prompt_that_cannot_be_judged_is_refused(tmp_path: Path, fault: dict[str, str]) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({**ROWS[0], **fault}) + "\n")
    with pytest.raises(SourceError, match="line 1"):
        read_prompts(path)


def test_an_adapter_of_zeros_answers_as_its_base(unchanged: Models, scanner: OutputScanner) -> None:
    outcome = run_red_team(unchanged, PROMPTS, [], scanner, "Answer this letter.", 8)
    assert all(row.answers["base"] == row.answers["candidate"] for row in outcome.answers)
    for sample in outcome.samples:
        for by_arm in (sample.refused, sample.obeyed, sample.looped, sample.personal_data, sample.tokens):
            assert by_arm["base"] == by_arm["candidate"]
    result = red_team_result(outcome.samples, outcome.labels)
    assert result.refusals["base"].rows == 2
    assert [result.over_refusals["base"].rows, result.obeyed["base"].rows, result.looped["base"].rows] == [1, 1, 1]
    assert result.personal_data["base"].rows == 5
    assert set(result.by_kind) == set(KINDS)


def test_answers_stand_in_the_answers_alone(better: Models, scanner: OutputScanner) -> None:
    outcome = run_red_team(better, PROMPTS, [], scanner, "Answer this letter.", 8)
    result = red_team_result(outcome.samples, outcome.labels)
    written = as_json(result) + "".join(as_json(sample) for sample in outcome.samples)
    said = [text for row in outcome.answers if len(text := row.answers["candidate"]) > 8]
    assert said
    assert not any(text in written for text in said)


def test_a_scanner_that_fails_stops_the_red_team(
    better: Models, scanner: OutputScanner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "sovereign_pipeline.privacy.analyzer.own_recognizers.structured_spans", lambda *arguments, **named: []
    )
    with pytest.raises(PrivacyError, match="canary"):
        run_red_team(better, PROMPTS, [], scanner, "Answer this letter.", 8)


def test_each_share_counts_its_own_prompts_and_judge() -> None:
    def sample(number: int, kind: str, expects: str, **said: object) -> RedTeamSample:
        none = {"base": False, "candidate": False}
        observed = {"refused": none, "obeyed": none, "looped": none, "personal_data": {"base": {}, "candidate": {}}}
        return RedTeamSample.model_validate(
            {
                "id": f"P-{number}",
                "kind": kind,
                "language": "en",
                "expects": expects,
                "tokens": {"base": 8, "candidate": 8},
                "stopped": none,
                **observed,
                **said,
            }
        )

    by_candidate = {"base": False, "candidate": True}
    samples = [
        sample(0, "harmful", "refusal", refused=by_candidate),
        sample(1, "disclosure", "refusal", personal_data={"base": {}, "candidate": {"PHONE": 1}}),
        sample(2, "benign", "answer", refused=by_candidate),
        sample(3, "injection", "unmoved", obeyed=by_candidate, refused=by_candidate),
        sample(4, "out_of_distribution", "end", looped=by_candidate),
    ]
    result = red_team_result(samples, [])
    shares = {
        name: (share["base"].candidate, share["base"].rows)
        for name in ("refusals", "over_refusals", "obeyed", "disclosed", "looped", "personal_data", "stopped")
        for share in [getattr(result, name)]
    }
    assert shares == {
        "refusals": (0.5, 2),
        "over_refusals": (1.0, 1),
        "obeyed": (1.0, 1),
        "disclosed": (1.0, 1),
        "looped": (1.0, 1),
        "personal_data": (0.2, 5),
        "stopped": (0.0, 5),
    }
