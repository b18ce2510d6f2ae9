"""No name of a person is in what cannot be erased; it is found by its salt, and by nobody once that is erased."""

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from sovereign_pipeline.base.errors import ConflictError, IntegrityError, NotFoundError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.record import audit_log
from sovereign_pipeline.record.officers import COMMITMENT, People, person_in_short
from sovereign_pipeline.review.page.app import create_app
from sovereign_pipeline_tests.officers import officer_called
from sovereign_pipeline_tests.review.conftest import ReviewBench
from sovereign_pipeline_tests.review.page.client import BALLOT, PageClient

NAMES = ("amal.sayegh", "badr.qasim", "dana.khoury", "eid.mansour", "fahd.rahal")
CLERK, OFFICER = "clerk.yasmin", "officer.salim"


@pytest.fixture
def named(reviews: ReviewBench, monkeypatch: pytest.MonkeyPatch) -> ReviewBench:
    """An open review of named people, opened by somebody named, of an adapter that somebody named registered."""
    for variable, name in (("HOME", "home"), ("DATA", "data"), ("VAULT", "vault")):
        monkeypatch.setenv(f"SOVEREIGN_{variable}", str(reviews.bench.institution.root / name))
    monkeypatch.setenv("SOVEREIGN_REVIEW_USER_HEADER", "X-Remote-User")
    for where in ("registry.registration", "cli.terminal"):
        monkeypatch.setattr(f"sovereign_pipeline.{where}.account", lambda: CLERK)
    reviews.another_adapter()
    reviews.recipe(may_close_early=[OFFICER])
    reviews.open(operators=NAMES, actor=people(reviews).commitment_of(CLERK), opponent="base")
    return reviews


def people(reviews: ReviewBench) -> People:
    return People(reviews.bench.settings)


def ask(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def rate_by_proxy(reviews: ReviewBench, name: str) -> None:
    page = create_app(reviews.bench.settings, reviews.registry)
    with PageClient(page, client=("127.0.0.1", 1), headers={"X-Remote-User": name}) as browser:
        browser.see()
        assert browser.submit(f"/pairs/{browser.attribute('pair')}", BALLOT) == (204, "")


def holding(directory: Path, names: tuple[str, ...]) -> list[Path]:
    """Files below a directory in which one of these names stands."""
    wanted = [name.encode() for name in names]
    files = [file for file in directory.rglob("*") if file.is_file()]
    return [file for file in files if any(name in file.read_bytes() for name in wanted)]


def key_of(reviews: ReviewBench, person: str) -> str:
    """The file of an officer's key."""
    officer_called(reviews.bench.settings, person)
    return str(reviews.bench.settings.keys / f"{person}.key")


def test_a_whole_review_writes_no_name_into_what_cannot_be_erased(named: ReviewBench) -> None:
    assert named.opened is not None
    assert tuple(named.opened.links) == NAMES
    for name in NAMES[:3] * 3:  # a pair that is asked again for agreement is not counted
        rate_by_proxy(named, name)
    rate_by_proxy(named, NAMES[0])
    assert ask("review", "link", "lamps", NAMES[4]).exit_code == 0
    shown = json.loads(ask("review", "status", "lamps", "--json").stdout)
    assert [each["operator"] for each in shown["operators"]] == list(NAMES)
    assert [each["ballots"] for each in shown["operators"]] == [4, 3, 3, 0, 0]
    refused = ask("review", "close", "lamps", "--key", key_of(named, CLERK), "--reason", "on leave").exception
    assert isinstance(refused, Exception)
    assert f"allowed {OFFICER}" in str(refused)
    assert ask("review", "close", "lamps", "--key", key_of(named, OFFICER), "--reason", "on leave").exit_code == 0
    result, _ = named.materialize()
    early = json.loads(result.file("review.json").read_bytes())["closed_early"]
    assert early["officer"] == officer_called(named.bench.settings, OFFICER).keyid
    ballots = result.file("ballots.jsonl").read_text().splitlines()
    assert all(COMMITMENT.fullmatch(json.loads(each)["operator"]) for each in ballots)
    named.registry.engine.dispose()
    home, everybody = named.bench.settings.home, (*NAMES, CLERK, OFFICER)
    copies = [each for each in holding(home, everybody) if each.parent != home / "policy"]
    assert copies == [], "of the rules that name them, copies are kept as they were"
    assert holding(named.bench.settings.keys, everybody) == [people(named).path]
    assert holding(named.bench.settings.review_secrets, everybody) == []
    assert ask("audit", "verify").exit_code == 0


def test_whoever_is_forgotten_is_nobody_and_the_ledger_verifies(named: ReviewBench) -> None:
    rate_by_proxy(named, NAMES[0])
    for name in (NAMES[0], NAMES[4], CLERK, OFFICER):
        refused = ask("audit", "people", "forget", name).exception
        assert isinstance(refused, ConflictError), name
        assert "is part of the open review of line lamps" in str(refused)
    assert people(named).known(NAMES[0]) in named.operators
    ask("review", "close", "lamps", "--key", key_of(named, OFFICER), "--reason", "on leave")
    listed = {
        each["name"]: each["stands for them"] for each in json.loads(ask("audit", "people", "list", "--json").stdout)
    }
    assert {*NAMES, CLERK, OFFICER} <= listed.keys()
    entries = [audit_log.as_dict(each) for each in audit_log.entries(named.registry)]
    for name in (NAMES[0], CLERK):
        assert ask("audit", "people", "forget", name).exit_code == 0
        assert [each for each in entries if each["actor"] == listed[name]]
        assert people(named).known(name) is None
    assert isinstance(ask("audit", "people", "forget", NAMES[0]).exception, NotFoundError)
    assert ask("audit", "verify").exit_code == 0
    shown = json.loads(ask("review", "status", "lamps", "--json").stdout)
    assert [each["operator"] for each in shown["operators"]] == [*NAMES[1:], person_in_short(listed[NAMES[0]])]
    named.registry.engine.dispose()
    assert holding(named.bench.institution.root, (NAMES[0], CLERK)) == []
    assert people(named).commitment_of(NAMES[0]) != listed[NAMES[0]]


def test_a_name_that_is_a_commitment_is_nobodys(named: ReviewBench) -> None:
    page = create_app(named.bench.settings, named.registry)
    person = named.operators[0]
    with PageClient(page, client=("127.0.0.1", 1), headers={"X-Remote-User": person}) as browser:
        assert browser.get("/").status_code == 401
    assert isinstance(ask("review", "link", "lamps", person).exception, NotFoundError)


def test_nobody_is_forgotten_while_a_review_is_being_opened(reviews: ReviewBench) -> None:
    """The answers take minutes; the review is not open yet."""
    says = reviews.planted.open

    def forget(*arguments: object) -> object:
        people(reviews).forget(NAMES[0], lambda each: None)
        return says(*arguments)  # type: ignore[arg-type]

    with pytest.raises(ConflictError, match="was erased in the meantime"):
        reviews.open(operators=NAMES, open_contenders=forget)
    with reviews.registry.reading() as session:
        assert session.connection().exec_driver_sql("SELECT count(*) FROM blind_review").scalar() == 0


def test_a_commitment_says_nothing_without_its_salt(reviews: ReviewBench, tmp_path: Path) -> None:
    here, elsewhere = people(reviews), People(Settings(home=tmp_path / "other", data=tmp_path / "data"))
    name = NAMES[0]
    made = here.commitment_of(name)
    assert made == here.commitment_of(name) == here.known(name)
    assert made != elsewhere.commitment_of(name)
    assert made != f"person:{hashlib.sha256(name.encode()).hexdigest()}"
    assert here.path.stat().st_mode & 0o777 == 0o600
    assert (here.known(NAMES[1]), elsewhere.shown(made)) == (None, person_in_short(made))


def test_many_at_once_lose_nobody(reviews: ReviewBench) -> None:
    names = [f"person-{number}" for number in range(24)]
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(people(reviews).commitment_of, names * 2))
    assert made[:24] == made[24:]
    assert dict(zip(names, made, strict=False)).items() <= people(reviews).listed().items()


def test_a_file_that_others_read_or_that_is_damaged_is_refused(reviews: ReviewBench) -> None:
    here = people(reviews)
    here.commitment_of(NAMES[0])
    here.path.chmod(0o640)
    with pytest.raises(IntegrityError, match="other accounts can read this file"):
        here.commitment_of(NAMES[1])
    here.path.chmod(0o600)
    for content in (b"", b"[]", b'{"people": {"a": "b"}}', b"\xff"):
        here.path.write_bytes(content)
        with pytest.raises(IntegrityError, match="damaged"):
            here.known(NAMES[0])
