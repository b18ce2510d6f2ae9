"""A package about a line with a past: a review that was closed early, a hold, a purge, new root keys, a lost source."""

import datetime
import json
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from sovereign_pipeline.base.text import silent
from sovereign_pipeline.record.catalog import transitions_of
from sovereign_pipeline.record.keys import generate
from sovereign_pipeline.record.tables import Adapter
from sovereign_pipeline.record.trust_changes import rotate_root
from sovereign_pipeline.release.purge import plan_purge, purge
from sovereign_pipeline.release.trial import Judgement, accept_hold, enter_judgements, write_judgement
from sovereign_pipeline_tests.audit.conftest import FIRST, SECOND, written
from sovereign_pipeline_tests.audit.packages import Package, changed
from sovereign_pipeline_tests.conftest import DemoInstitution, minimal_recipe
from sovereign_pipeline_tests.registry.bench import Bench
from sovereign_pipeline_tests.release.conftest import Office, open_office
from sovereign_pipeline_tests.review.conftest import ReviewBench, row

THIRD = "lamps-1.2.0"


@dataclass
class Worn:
    office: Office
    package: Package
    said: list[str]
    """What its verifier says of the day before the first adapter was in production."""


def _reviewed(bench: Bench) -> None:
    """Closed early, when one operator of five had given ballots."""
    reviews = ReviewBench(bench)
    reviews.open()
    operator = reviews.operators[0]
    for each in reviews.asked(operator):
        reviews.vote(operator, each.pair, 1)
    reviews.close(officer="officer.salim", reason="The others are on leave.")
    reviews.materialize()


def _held(office: Office, adapter: Adapter, incumbent: str) -> None:
    """Its hold was judged, which was inconclusive, and the root's keys were changed before an officer accepted it."""
    registry, settings = office.registry, office.bench.settings
    with registry.reading() as session:
        staged = [each for each in transitions_of(session, adapter.line) if each.adapter_id == adapter.id][-1]
    judged = Judgement(
        line=adapter.line,
        adapter=adapter.id,
        incumbent=incumbent,
        staged_by=staged.sequence,
        began=1,
        number=1,
        outcome="inconclusive",
        because="few asked",
        expected="",
        days=8.0,
        users=(3, 9),
        answers=(4, 12),
        rated=(0, 0),
        severe=0,
        bounds=(),
        observations="1" * 64,
        at=datetime.datetime.now(datetime.UTC),
    )
    signed = write_judgement(settings, office.pipeline, judged, adapter.record_manifest_sha256)
    enter_judgements(registry, settings, adapter.line, office.trust)
    rotate_root(settings.data / "trust", [generate() for _ in range(3)], office.roots[:2])
    workplace = office.bench.workplace()
    accept_hold(registry, workplace, office.officers["ines"], adapter.id, "The desk read fifty.", signed.sha256)


def _purged(office: Office, adapter: Adapter) -> None:
    bench = office.bench
    plan = plan_purge(office.registry, bench.store, bench.settings, adapter.id, silent)
    purge(office.registry, bench.store, bench.settings, office.officers["layla"], plan, "The disk is full.")


@pytest.fixture(scope="module")
def worn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worn]:
    root = tmp_path_factory.mktemp("worn")
    institution = DemoInstitution(root / "institution", minimal_recipe(), [row(number) for number in range(60)])
    institution.root.mkdir()
    review = {"prompts_each": 2, "shared_prompts": 2, "guess_pairs": 2, "may_close_early": ["officer.salim"]}
    institution.recipe["gates"] = {"review": review}
    bench = Bench(institution)
    bench.with_base_model("tiny")
    office = open_office(institution, bench)
    first = office.adapter()
    before = datetime.datetime.now(datetime.UTC)
    office.to_production(first)
    _reviewed(bench)
    second = office.adapter()
    office.to_production(second)
    third = office.adapter()
    office.move("approve", third)
    office.move("stage", third)
    office.move("retire", first)
    _purged(office, first)
    _held(office, third, second.id)
    institution.source.unlink()
    package, said = written(office, root / "package", [FIRST, SECOND]), list[str]()
    assert package.refusal(before.isoformat(), said=said) is None
    yield Worn(office, package, said)
    office.registry.engine.dispose()


def test_what_happened_to_the_line_is_told(worn: Worn) -> None:
    told = "\n".join(worn.said)
    for each in (
        "✓ trust root: root 2, targets ",
        f'{FIRST} against tiny: 2 won, 0 lost, 0 tied; 4 of 20 ballots, closed early by officer.salim: "The others',
        f"{FIRST} supersede -> superseded, asked by Layla Haddad (entry ",
        f"{SECOND} promote -> production, asked by Layla Haddad (entry ",
        f"hold of {THIRD}: inconclusive",
        f'inconclusive hold of {THIRD} accepted by Ines Farah: "The desk read fifty."',
        f'release weights purged by Layla Haddad, {FIRST}: "The disk is full."',
    ):
        assert each in told, f"{each}\n{told}"


def test_nothing_answered_on_a_day_before_the_first_was_in_production(worn: Worn) -> None:
    asked = worn.said.index("What answered line lamps:")
    assert worn.said[asked + 1].endswith(": none, by what is here")
    assert worn.said[asked + 2].startswith("Waived:")
    said: list[str] = []
    assert worn.package.refusal("2101-01-01", said=said) is None
    (then,) = (each for each in said if each.startswith("  at 2101"))
    no_flag = "by its transitions; no flag change is here, which would say who got what"
    assert then.endswith(f": production: {SECOND}; staged: {THIRD} {no_flag}")


@pytest.mark.security_case(
    "A statement about a hold, a purge or a change is altered in evidence, or left out", "Refused, though indexed anew"
)
def test_each_statement_of_its_past_is_needed_as_it_was_signed(worn: Worn) -> None:
    statements = [name for name in worn.package.files if name.startswith("statements/")]
    tried = [(name, new) for name in statements for new in (None, changed(worn.package.files[name]))]
    made = [(name, worn.package.indexed({name: new}, worn.office.pipeline)) for name, new in tried]
    assert [name for name, each in made if each.refusal() is None] == []
    assert len(made) > 50


@pytest.mark.security_case("Evidence comes with the trust root of before its keys were changed", "Refused as an older")
def test_the_root_of_before_is_refused(worn: Worn) -> None:
    files = worn.package.files
    first = files["trust/1.root.json"]
    older = worn.package.indexed({"trust/2.root.json": None, "trust/root.json": first}, worn.office.pipeline)
    assert "0 of the 2 keys that are needed signed it" in str(older.refusal())
    root = json.loads(files["trust/2.root.json"])
    old = {each.keyid for each in worn.office.roots}
    root["signatures"] = [each for each in root["signatures"] if each["keyid"] not in old]
    alone = json.dumps(root).encode()
    forged = worn.package.indexed({"trust/2.root.json": alone, "trust/root.json": alone}, worn.office.pipeline)
    assert forged.refusal() == "trust/2.root.json: 0 of the 2 keys that are needed signed it"
