"""`sovereign review` and `sovereign audit` as clerks, officers and auditors use them."""

import json
import re
from pathlib import Path

import pytest
from sqlalchemy import text
from typer.testing import CliRunner, Result

from sovereign_pipeline.base.errors import GateRefused, IntegrityError
from sovereign_pipeline.cli.main import app
from sovereign_pipeline_tests.officers import officer_called
from sovereign_pipeline_tests.record.owner import forge
from sovereign_pipeline_tests.review.conftest import ReviewBench


@pytest.fixture
def ask(reviews: ReviewBench, monkeypatch: pytest.MonkeyPatch) -> "Ask":
    monkeypatch.setenv("SOVEREIGN_HOME", str(reviews.bench.settings.home))
    monkeypatch.setenv("SOVEREIGN_DATA", str(reviews.bench.settings.data))
    reviews.recipe(may_close_early=["officer.salim"])
    reviews.bench.workplace()
    return Ask()


class Ask:
    def __call__(self, *arguments: str) -> Result:
        return CliRunner().invoke(app, list(arguments))


def key_of(reviews: ReviewBench, person: str) -> str:
    """The file of an officer's key."""
    officer_called(reviews.bench.settings, person)
    return str(reviews.bench.settings.keys / f"{person}.key")


def test_status_says_how_many_and_nothing_of_what_was_said(reviews: ReviewBench, ask: Ask) -> None:
    reviews.open()
    reviews.vote("operator-2", reviews.asked("operator-2")[0].pair, 1)
    facts = json.loads(ask("review", "status", "lamps", "--json").stdout)
    assert (facts["state"], facts["ballots"], facts["ballots_to_close"]) == ("open", 1, 20)
    assert facts["operators"][1] == {"operator": "operator-2", "ballots": 1, "pairs": 4, "guesses": 0}
    shown = ask("review", "status", "lamps").stdout
    assert "lamps-1.0.0 against tiny, open, 1 of 20 ballots" in shown
    assert not re.search(r"prefer|tie|won|\ba\b|\bb\b", json.dumps(facts) + shown)


def test_closing_ends_1_while_ballots_are_missing_and_an_officer_closes_with_a_reason(
    reviews: ReviewBench, ask: Ask
) -> None:
    opened = reviews.open()
    refused = ask("review", "close", "lamps")
    assert isinstance(refused.exception, GateRefused)
    assert (refused.exception.exit_status, "0 of the 20" in str(refused.exception)) == (1, True)
    seed = reviews.seed.hex()
    assert seed not in refused.stdout
    reviews.vote("operator-2", reviews.asked("operator-2")[0].pair, 1)
    closed = ask("review", "close", "lamps", "--key", key_of(reviews, "officer.salim"), "--reason", "on leave")
    assert closed.exit_code == 0
    assert f"closed with 1 of 20 ballots; seed {seed}" in closed.stdout
    facts = json.loads(ask("review", "status", "lamps", "--json").stdout)
    assert (facts["state"], facts["review"]) == ("closed", opened.review)


def test_a_link_for_another_device_holds_its_token_where_no_proxy_sees_it(reviews: ReviewBench, ask: Ask) -> None:
    reviews.open()
    answer = ask("review", "link", "lamps", "operator-1", "--url", "https://review.institution.example/")
    assert re.fullmatch(r"https://review\.institution\.example/sign-in#[\w-]{43}", answer.stdout.strip())


@pytest.mark.security_case("a ballot is inserted into an open review", "`review status` and `audit verify` name it")
def test_what_was_put_in_is_named_by_status_and_by_verifying_the_log(reviews: ReviewBench, ask: Ask) -> None:
    reviews.open()
    reviews.vote("operator-2", reviews.asked("operator-2")[0].pair, 1)
    assert ask("review", "status", "lamps").exit_code == ask("audit", "verify").exit_code == 0
    inserted = "INSERT INTO ballot SELECT review_id, 'operator-3', pair, preference, ratings, given_at FROM ballot"
    forge(reviews.registry, lambda session: session.execute(text(inserted)))
    named = "a ballot is in the registry without an act in the log"
    for arguments in (("review", "status", "lamps"), ("audit", "verify")):
        shown, as_json = ask(*arguments), ask(*arguments, "--json")
        assert (shown.exit_code, as_json.exit_code) == (1, 1)
        assert named in " ".join(shown.stdout.split())
        assert named in as_json.stdout
        json.loads(as_json.stdout)
    refused = ask("review", "close", "lamps", "--key", key_of(reviews, "officer.salim"), "--reason", "on leave")
    assert isinstance(refused.exception, IntegrityError)
    assert named in str(refused.exception)


def test_the_audit_log_is_verified_exported_and_held_against_an_export(
    reviews: ReviewBench, ask: Ask, tmp_path: Path
) -> None:
    reviews.open()
    count = json.loads(ask("audit", "verify", "--json").stdout)["entries"]
    file = tmp_path / "audit.jsonl"
    assert f"{count + 1} entries" in ask("audit", "export", str(file)).stdout
    reviews.vote("operator-2", reviews.asked("operator-2")[0].pair, 1)
    answer = ask("audit", "verify", "--export", str(file))
    assert (answer.exit_code, f"{count + 3} entries" in answer.stdout) == (0, True)
    *before, last = file.read_text().splitlines()
    file.write_text("\n".join([*before, json.dumps({**json.loads(last), "hash": "e" * 64})]) + "\n")
    refused = ask("audit", "verify", "--export", str(file))
    assert isinstance(refused.exception, IntegrityError)
    assert f"entry {count + 1}" in str(refused.exception)
