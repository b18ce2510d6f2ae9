"""`sovereign adapters`: rollback with the registry and without it, the status, and lists."""

import datetime
import io
import json
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sovereign_pipeline.base.errors import ConflictError, InputError
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.cli.release import let_flag_follow
from sovereign_pipeline.record.keys import write_key
from sovereign_pipeline.release.recall import Question, ask, open_recall, waive_recall
from sovereign_pipeline.release.requests import propose, request
from sovereign_pipeline.release.standing import history_of
from sovereign_pipeline.serving.rollout.flag import current_flag, root_of
from sovereign_pipeline.serving.rollout.rollback import stop
from sovereign_pipeline_tests.release.conftest import Office
from sovereign_pipeline_tests.release.conftest import office as office


@pytest.fixture
def key(office: Office, monkeypatch: pytest.MonkeyPatch) -> Path:
    for variable in ("home", "data", "vault"):
        monkeypatch.setenv(f"SOVEREIGN_{variable.upper()}", str(office.bench.institution.root / variable))
    path = office.bench.settings.keys / "omar.key"
    write_key(path, office.officers["omar"], None)
    return path


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["adapters", *arguments])


def test_an_officer_rolls_back(office: Office, key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = office.adapter(), office.adapter()
    office.to_production(first)
    for transition in ("approve", "stage"):
        office.move(transition, second)
    standing = office.ask("promote", second)
    office.decide(standing, "ines")
    given = call("approve", standing.request.id, "--key", str(key))
    assert "flag of lamps, change 1: lamps-1.1.0 for everybody" in given.output, given.output

    monkeypatch.setenv("SOVEREIGN_REGISTRY_URL", "sqlite:////nowhere/at/all.db")
    given = call("rollback", "lamps", "--reason", "It answers in verse.", "--key", str(key))
    assert given.exit_code == 0, given.output
    assert "flag of lamps, change 2: lamps-1.0.0 for everybody" in given.output
    assert "The ledger is not updated yet" in given.output
    monkeypatch.delenv("SOVEREIGN_REGISTRY_URL")
    assert office.states()[second.id] == "production"

    given = call("rollback", "lamps", "--to", first.id, "--reason", "Again.", "--key", str(key))
    assert "is not an adapter to which line lamps can roll back" in str(given.exception)

    given = call("request", second.id, "roll_back", "--reason", "It was right.", "--key", str(key))
    assert given.exit_code == 0, given.output
    with office.registry.reading() as session:
        made = [each["transition"] for each in history_of(session, office.registry.settings, office.trust, "lamps")]
    assert made[-4:] == ["supersede", "roll_back", "supersede", "roll_back"]
    given = call("rollback", "lamps", "--reason", "It was not.", "--key", str(key))
    assert "the ledger is updated" in given.output
    assert office.states() == {first.id: "production", second.id: "superseded"}


class Meanwhile(io.StringIO):
    """Output, and what others do at the moment when a text is printed."""

    def __init__(self, printed: str, act: Callable[[], object]) -> None:
        super().__init__()
        self.printed, self.act = printed, act

    def write(self, text: str) -> int:
        if self.printed in text:
            self.act()
        return super().write(text)


@pytest.mark.security_case(
    "The gateway stops a rollout while an officer confirms that the staged adapter is withdrawn",
    "the officer's key does not sign the rollback of the adapter in production",
)
def test_an_officer_signs_the_rollback_that_was_shown(office: Office, key: Path) -> None:
    first, second, third = office.adapter(), office.adapter(), office.adapter()
    for each in (first, second):
        office.to_production(each)
    for transition in ("approve", "stage"):
        office.move(transition, third)
    settings = office.bench.settings
    let_flag_follow(office.registry, office.bench.workplace())
    written = Meanwhile("Signing as", lambda: stop(settings, "lamps", third.id, "errors: 0.4 more"))
    rollback = ["adapters", "rollback", "lamps", "--reason", "It answers in verse.", "--key", str(key)]
    with redirect_stdout(written), pytest.raises(ConflictError, match="after the rollback was shown"):
        app(rollback, standalone_mode=False)
    assert "unstage" in written.getvalue()
    flag = current_flag(settings, "lamps", office.trust)
    assert (flag.cause, flag.production, flag.staged) == ("regression", second.id, third.id)
    with redirect_stdout(io.StringIO()):
        app(rollback, standalone_mode=False)
    assert current_flag(settings, "lamps", office.trust).production == first.id


@pytest.mark.security_case(
    "A requester signs a text that moves the cursor or sets colours in the terminal of the officer who approves",
    "the terminal shows it as plain text",
)
def test_a_request_cannot_repaint_what_an_officer_confirms(office: Office, key: Path) -> None:
    adapter, workplace = office.adapter(), office.bench.workplace()
    asked = propose(
        office.registry, workplace, adapter.id, "approve", "It is needed.", datetime.datetime.now(datetime.UTC)
    )
    hostile = {"reason": "Fine.\n\x1b[3A\x1b[2K\x9b2J", "[/]\x1b[1Anote": "x"}
    forged = replace(asked, predicate={**asked.predicate, **hostile})
    standing = request(office.registry, workplace, office.officers["layla"], forged)
    given = call("approve", standing.request.id, "--key", str(key))
    assert given.exit_code == 0, given.output
    assert "Fine." in given.output and "[/]" in given.output
    assert given.output.replace("\n", "").isprintable()


def test_the_doctor_says_what_is_wrong_with_a_flag(office: Office, key: Path) -> None:
    office.to_production(office.adapter())
    let_flag_follow(office.registry, office.bench.workplace())
    assert "lamps-1.0.0 for everybody" in CliRunner().invoke(app, ["doctor"]).output
    (root_of(office.bench.settings) / "lamps" / "00000001" / "flags.json").write_text("{}")
    assert "change 1, fails verification" in CliRunner().invoke(app, ["doctor"]).output


def test_a_hold_is_shown(office: Office, key: Path) -> None:
    adapter = office.adapter()
    for transition in ("approve", "stage"):
        office.move(transition, adapter)
    let_flag_follow(office.registry, office.bench.workplace())
    given = call("hold", "lamps", "--json")
    assert given.exit_code == 0
    assert '"outcome": "open"' in given.output
    assert "missing: 7 days" in given.output
    office.move("unstage", adapter)
    let_flag_follow(office.registry, office.bench.workplace())
    assert '"outcome": "none"' in call("hold", "lamps", "--json").output


def test_what_answered_leaves_out_the_time_under_a_recall_and_after_retirement(office: Office, key: Path) -> None:
    adapter, registry = office.adapter(), office.registry
    tomorrow = (datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)).date().isoformat()

    def answers() -> str | None:
        found = json.loads(call("production", "lamps", "--at", tomorrow, "--json").stdout)
        return str(found["adapter"]) if found["adapter"] else None

    assert answers() is None
    office.to_production(adapter)
    assert answers() == adapter.id
    opened = open_recall(registry, ask(registry, Question(source="letters")), office.officers["omar"], "Withdrawn.")
    assert answers() is None
    told = call("production", "lamps", "--at", tomorrow).stdout
    assert "no adapter answered" in told and opened.id in told
    waive_recall(registry, opened.id, adapter.id, office.officers["ines"], "Nothing of it is left.")
    assert answers() == adapter.id
    office.move("retire", adapter)
    assert answers() is None


def test_a_day_is_written_in_one_way(office: Office, key: Path, tmp_path: Path) -> None:
    """Other dates of ISO 8601 would be midnight, and leave out what answered later on that day."""
    found = json.loads(call("production", "lamps", "--at", "2027-03-14", "--json").stdout)
    assert found["at"] == "2027-03-14T23:59:59.999999+00:00"
    for text in ("20270314", "2027W107", "2027-W10-7", "2027W10T09"):
        package = ["evidence", "--line", "lamps", "--on", text, "--out", str(tmp_path / "package")]
        for given in (call("production", "lamps", "--at", text), CliRunner().invoke(app, package)):
            assert type(given.exception) is InputError, text
