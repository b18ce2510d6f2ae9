"""What may be served is loaded, what may not is not: by state, signature, approval, recall and byte."""

import asyncio
import datetime
import os
import shutil
import sqlite3
from pathlib import Path

import pytest
import yaml
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.record.keys import generate
from sovereign_pipeline.record.trust_changes import add_officer, create_trust, revoke
from sovereign_pipeline.release.acts import add_issue
from sovereign_pipeline.release.recall import Question, waive_recall
from sovereign_pipeline.serving.deployment import Deployment
from sovereign_pipeline.serving.engines.local import LocalEngine, LocalSettings
from sovereign_pipeline.serving.high_water_marks import HighWaterMarks
from sovereign_pipeline.serving.rollout.publishing import follow
from sovereign_pipeline_tests.conftest import DemoInstitution, letter
from sovereign_pipeline_tests.officers import recall
from sovereign_pipeline_tests.record.owner import change
from sovereign_pipeline_tests.release.test_rights import revoke_before_its_act, waived, waiving_office
from sovereign_pipeline_tests.serving.engines.conformance import Running, until
from sovereign_pipeline_tests.serving.engines.test_local import process_of
from sovereign_pipeline_tests.serving.served_office import Deploying, ServedOffice
from sovereign_pipeline_tests.serving.tiny_adapters import TinyAdapters, change_last_byte, other_base

pytestmark = pytest.mark.slow


def test_production_and_staged_are_loaded_and_nothing_else(deploying: Deploying) -> None:
    office, first = deploying.office, deploying.first
    second, registered = deploying.served.staged(), deploying.served.adapter()
    deployed = deploying.look()
    assert deploying.engine.names == [first.id, second.id]
    assert [(each.adapter, each.pinned) for each in deployed.served] == [(first.id, True), (second.id, False)]
    loaded = deploying.engine.deployed[first.adapter_digest]
    assert (loaded.line, loaded.classification, loaded.base_model_digest) == (
        "lamps",
        first.classification,
        first.base_model_digest,
    )
    assert loaded.fingerprint is not None
    assert not deployed.refused
    office.move("approve", registered)
    assert deploying.serves() == [first.id, second.id]
    office.move("promote", second)
    served = deploying.look().served
    assert [(each.adapter, each.is_in_production) for each in served] == [(second.id, True), (first.id, False)]
    assert deploying.engine.names == [first.id, second.id], "one can be gone back to at once"
    office.move("roll_back", first)
    assert [(each.adapter, each.in_reserve) for each in deploying.look().served] == [
        (first.id, False),
        (second.id, True),
    ]
    office.move("retire", second)
    assert deploying.serves() == [first.id]
    office.move("retire", first)
    assert deploying.serves() == []
    assert registered.id not in " ".join(deploying.said)


@pytest.mark.security_case("An adapter is retired while it answers users", "it is unloaded, whatever the flag says")
def test_what_answers_users_stays_until_a_later_one_is_loaded(deploying: Deploying) -> None:
    """Two promotions between two looks: the gateway's flag waits for the second one, and goes on with the first."""
    first, served = deploying.first, deploying.served
    deploying.look()
    deploying.answering = {first.id}
    second, third = served.in_production(), served.in_production()
    assert [each.adapter for each in deploying.look().served] == [third.id, first.id, second.id]
    assert deploying.said.count(f"no longer served: {first.id}") == 0
    listed: list[str] = []
    deploying.engine.before_unloading = lambda _: listed.extend(
        each.adapter for each in deploying.deployment.deployed.served
    )
    deploying.answering = {third.id}
    deploying.office.move("retire", second)
    assert deploying.serves() == [third.id]
    assert {*listed} == {third.id}, "nobody is sent to what is about to be unloaded"
    assert deploying.said.count(f"no longer served: {first.id}") == 1
    deploying.office.move("retire", third)
    assert deploying.serves() == []


def test_what_has_the_weights_of_what_answers_is_not_kept_for_them(deploying: Deploying) -> None:
    office, officer = deploying.office, deploying.office.officers["layla"]
    twin = office.twin_of(deploying.first)
    office.to_production(twin)
    recall(office.registry, Question(source="letters"), officer)
    waive_recall(office.registry, "recall-1", twin.id, officer, "It was checked.")
    deploying.answering = {twin.id}
    deployed = deploying.look()
    assert ([each.adapter for each in deployed.served], deployed.withdrawn) == ([twin.id], ())


def test_nothing_is_verified_again_while_nothing_moved(deploying: Deploying) -> None:
    first = deploying.look()  # enters the fingerprint that is made now in the ledger
    assert deploying.look() is first
    bench = deploying.office.bench
    bench.institution.rows.append(letter(99))
    bench.run(bench.chain[3])  # enters artifacts alone
    assert deploying.look() is first
    deploying.engine.adapters.clear()  # the engine was started again
    assert deploying.look().served == first.served
    assert len(deploying.engine.loads) == 2


@pytest.mark.security_case(
    "A stolen officer's key waives a gate, the adapter goes to production, and the key is revoked from before that",
    "the adapter is unloaded, and stays so after a restart",
)
def test_an_adapter_whose_gate_a_revoked_key_waived_is_not_served(
    institution: DemoInstitution, tiny: TinyAdapters
) -> None:
    served = ServedOffice(waiving_office(institution), tiny)
    adapter, stolen = waived(served.office)
    served.office.to_production(adapter)
    deploying = Deploying(served)
    assert deploying.serves() == [adapter.id]
    revoke_before_its_act(served.office, stolen)
    for gateway in (deploying, deploying.started_again()):
        assert gateway.serves() == []
        assert "is revoked from index" in gateway.deployment.deployed.refused[adapter.id]


@pytest.mark.security_case(
    "A byte of an adapter's weights is changed in the store, before it is loaded or later, without a new ledger entry",
    "the next check detects it; the adapter is not served, and is reported by name; other lines are",
)
def test_byte_changed_under_a_loaded_adapter_is_seen_at_the_next_look(deploying: Deploying) -> None:
    changed, other = deploying.first, deploying.served.in_production("buoys")
    deploying.look()
    assert deploying.look() is deploying.look()
    weights = deploying.served.weights_of(changed)
    before, stat = weights.read_bytes(), weights.stat()
    change_last_byte(weights)
    os.utime(weights, ns=(stat.st_atime_ns, stat.st_mtime_ns))  # as if it were the old one
    for looking in (deploying, deploying.started_again()):
        deployed = looking.look()
        assert set(deployed.refused) == {changed.id} and looking.engine.names == [other.id]
        assert "the bytes are not the recorded ones" in deployed.refused[changed.id]
        assert any(said.startswith(f"not served: {changed.id}: ") for said in looking.said)
    weights.chmod(0o644)
    weights.write_bytes(before)
    deploying.deployment._verified_at = float("-inf")  # a file that is not served is looked at once a minute
    assert not deploying.look().refused
    assert deploying.engine.names == sorted([changed.id, other.id])
    assert deploying.said[-2:] == [f"resolved: {changed.id}", f"served: {changed.id}"]


@pytest.mark.security_case(
    "The registry's row of a transition is changed, so that a staged adapter seems to be in production",
    "nothing is served",
)
@pytest.mark.security_case("Another program changes the registry's row of an adapter", "nothing is served")
@pytest.mark.security_case(
    "The database's owner changes a recall's entry after a later act",
    "nothing is served and officers cannot decide until it is repaired",
)
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE transition SET after = 'production' WHERE line = 'lamps' AND sequence = 2",
        f"UPDATE adapter SET adapter_digest = '{'0' * 64}' WHERE line = 'lamps'",
        "UPDATE audit_entry SET action = 'noted' WHERE action = 'recall opened'",
    ],
)
def test_a_changed_row_stops_everything(deploying: Deploying, statement: str) -> None:
    adapter, office = deploying.first, deploying.office
    recall(office.registry, Question(source="letters"), office.officers["layla"])
    add_issue(office.registry, adapter.id, "Curt.", office.officers["omar"])
    change(office.registry, statement)
    assert set(deploying.look().refused) == {"registry"} and deploying.engine.names == []
    with pytest.raises(IntegrityError):
        office.ask("retire", adapter)


def test_recall_stops_serving_until_it_is_waived(deploying: Deploying) -> None:
    adapter, registry, key = deploying.first, deploying.office.registry, deploying.office.officers["layla"]
    deploying.look()
    recalled = recall(registry, Question(source="letters"), key)
    deployed = deploying.look()
    assert "because of a recall: recall-1" in deployed.refused[adapter.id]
    (withdrawn,) = deployed.withdrawn
    assert (withdrawn.adapter, withdrawn.digest) == (adapter.id, adapter.adapter_digest)
    assert deploying.engine.names == []
    waive_recall(registry, recalled.id, adapter.id, key, "Retrained next week.")
    assert deploying.serves() == [adapter.id]
    assert deploying.look().withdrawn == ()


@pytest.mark.security_case("A served adapter was signed by a key that is then revoked", "it is unloaded within seconds")
@pytest.mark.security_case(
    "The trust root from before a revocation, or another institution's, is restored",
    "all adapters are unloaded, even if no act has logged the newer one",
)
def test_older_and_foreign_trust_roots_are_not_believed(deploying: Deploying, tmp_path: Path) -> None:
    office = deploying.office
    trust = office.bench.settings.data / "trust"
    shutil.copytree(trust, tmp_path / "older")
    assert deploying.serves() == [deploying.first.id]
    revoke(trust, office.pipeline.keyid, 0, office.roots[:2])
    deploying.refuses_all("is revoked", of="lamps")
    trust.rename(tmp_path / "newest")
    shutil.copytree(tmp_path / "older", trust)
    deploying.refuses_all("is older than root")
    restarted = deploying.started_again()
    restarted.refuses_all("is older than root")
    shutil.rmtree(trust)
    foreign = [generate() for _ in range(3)]
    create_trust(trust, foreign, {"pipeline": [office.pipeline.public_pem], "log": []})
    for name, officer in office.officers.items():
        add_officer(trust, officer.public_pem, name, ["*"], ["*"], foreign[:2])
    deploying.refuses_all("names the first root")


@pytest.mark.security_case("The trust root expires while adapters are served", "all adapters are unloaded")
def test_expired_trust_root_unloads_everything(deploying: Deploying, monkeypatch: pytest.MonkeyPatch) -> None:
    assert deploying.serves()
    expires = deploying.office.trust.expires

    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> "Later":
            return cls.fromtimestamp((expires + datetime.timedelta(days=1)).timestamp(), tz)

    monkeypatch.setattr("sovereign_pipeline.record.officers.datetime", Later)
    deploying.refuses_all("expired")


@pytest.mark.security_case(
    "The registry stops answering after an act that a running gateway has not seen, such as a recall",
    "all adapters are unloaded, and a gateway that starts serves nothing, until it answers again",
)
def test_registry_that_is_not_reached_changes_nothing_unless_an_act_was_not_seen(
    deploying: Deploying, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even right after the gateway has entered a fingerprint itself."""
    adapter, office = deploying.first, deploying.office
    follow(office.registry, office.bench.workplace())
    deploying.look()
    with monkeypatch.context() as outage:
        outage.setattr(Engine, "connect", _no_answer)
        deployed = deploying.look()
        assert [*deployed.refused] == ["registry"] and deployed.unreached_at is not None
        assert [each.adapter for each in deployed.served] == [adapter.id]
        assert deploying.engine.names == [adapter.id]
        assert deploying.look().unreached_at == deployed.unreached_at
    assert deploying.look().unreached_at is None
    assert deploying.serves() == [adapter.id]

    add_issue(office.registry, adapter.id, "Curt.", office.officers["omar"])
    with monkeypatch.context() as outage:
        outage.setattr(Engine, "connect", _no_answer)
        assert deploying.serves() == []
        assert deploying.started_without_registry().serves() == []
    assert deploying.serves() == [adapter.id]


@pytest.mark.security_case(
    "The registry's file is overwritten with junk, in whole or over its first page",
    "it counts as a registry that does not verify: all adapters are unloaded, and a gateway that starts serves nothing",
)
@pytest.mark.parametrize("is_whole", [True, False])
def test_junk_is_no_registry_that_is_down(deploying: Deploying, is_whole: bool) -> None:
    office = deploying.office
    follow(office.registry, office.bench.workplace())
    assert deploying.serves()
    for path in office.bench.settings.home.glob("registry.db*"):
        content = path.read_bytes()
        path.write_bytes(b"no database" * 1000 + (b"" if is_whole else content[11_000:]))
    deployed = deploying.look()
    assert deployed.unreached_at is None and deployed.served == () and deploying.engine.names == []
    assert deploying.started_again().serves() == []
    assert deploying.started_without_registry().serves() == []


def test_new_entry_is_noticed_at_once(deploying: Deploying, runner: asyncio.Runner) -> None:
    adapter, office = deploying.first, deploying.office

    async def recalled() -> None:
        task = asyncio.create_task(deploying.deployment.keep(600))
        await until(lambda: deploying.engine.names == [adapter.id])
        await asyncio.to_thread(recall, office.registry, Question(source="letters"), office.officers["layla"])
        await until(lambda: deploying.engine.names == [])
        task.cancel()

    runner.run(recalled())


@pytest.mark.security_case(
    "Registry and home are put back to before an act that the gateway has verified", "all adapters are unloaded"
)
def test_registry_without_the_entries_that_were_verified_is_not_believed(deploying: Deploying) -> None:
    """First, other acts were entered in their place; then it lacks one."""
    assert deploying.serves()
    marks = HighWaterMarks.of(deploying.office.bench.settings)
    for more in (0, 1):
        marks.accept_entries(marks.ledger[0] + more, "0" * 64)
        assert deploying.serves() == []


@pytest.mark.security_case(
    "An older registry is restored, in which a retired adapter is in production", "all adapters are unloaded"
)
def test_older_registry_is_not_believed(deploying: Deploying) -> None:
    office = deploying.office
    assert deploying.serves()
    path = office.bench.settings.home / "registry.db"
    with sqlite3.connect(path) as source, sqlite3.connect(path.with_name("copy.db")) as copy:
        source.backup(copy)
    office.registry.checkpoint()
    office.move("retire", deploying.first)
    with sqlite3.connect(path.with_name("copy.db")) as copy, sqlite3.connect(path) as target:
        copy.backup(target)
    assert deploying.serves() == []


def test_refusal_of_the_engine_is_named_and_a_lost_engine_gets_everything_again(deploying: Deploying) -> None:
    first, other = deploying.first, deploying.served.in_production("buoys")
    deploying.engine.unfit = {first.id}
    assert deploying.look().refused == {first.id: f"{first.id} does not fit."}
    assert deploying.engine.names == [other.id]
    deploying.engine.unfit, deploying.engine.is_lost = set(), True
    assert deploying.look().refused[other.id] == "gone"
    deploying.engine.is_lost = False
    assert not deploying.look().refused
    assert deploying.engine.names == [other.id, first.id]


def test_lines_of_two_base_models_are_served_and_that_of_most_is_first(
    deploying: Deploying, tiny: TinyAdapters, tmp_path: Path
) -> None:
    of_another, served_office, bench = deploying.first, deploying.served, deploying.office.bench
    models = bench.settings.models
    shutil.rmtree(models / "tiny")
    served_office.put_base_model("other", other_base(tiny, tmp_path))
    bench.recipe["training"]["base_model"] = "other"
    others = [served_office.in_production("buoys"), served_office.in_production("chains")]
    base = deploying.sources.base_to_serve()
    assert base is not None
    assert (base.name, base.digest) == ("other", others[0].base_model_digest)
    assert base.digest != of_another.base_model_digest
    deployed = deploying.look()
    assert of_another.id in deployed.refused and deploying.engine.names == sorted(each.id for each in others)
    shutil.copytree(tiny.base, models / "tiny")
    deploying.engine.adapters.clear()
    assert not deploying.look().refused
    assert deploying.engine.names == sorted(each.id for each in (of_another, *others))
    assert deploying.sources.base_of(of_another.base_model_digest).name == "tiny"


@pytest.mark.security_case(
    "An adapter's file is changed after loading, and the engine is killed", "the replacement engine does not load it"
)
def test_changed_adapter_is_not_served_after_the_engine_died(deploying: Deploying, runner: asyncio.Runner) -> None:
    """The whole of it, with the real engine."""
    first, second, sources = deploying.first, deploying.served.staged(), deploying.sources
    base = sources.base_to_serve()
    assert base is not None
    settings = LocalSettings(threads=1)
    engine = runner.run(LocalEngine.start(base.directory, settings, base_model_digest=base.digest))
    deployment = Deployment(engine, sources)
    try:
        deployed = runner.run(deployment.look())
        assert [each.adapter for each in deployed.served] == [first.id, second.id], deployed.refused
        running = Running(engine, deployed.served, runner)
        told = running.together(running.ask(0, "lamp"), running.ask(1, "lamp"))
        assert told[0].text != told[1].text
        change_last_byte(deploying.served.weights_of(first))
        starts = engine.starts
        process_of(running).kill()
        runner.run(until(lambda: engine.starts > starts and bool(engine.loaded())))
        assert list(engine.loaded().values()) == [second.id]
        deployed = runner.run(deployment.look())
        assert "the bytes are not the recorded ones" in deployed.refused[first.id]
        assert [each.adapter for each in deployed.served] == [second.id]
        assert running.alone(1, "lamp").text == told[1].text
    finally:
        runner.run(engine.close())


def _no_answer(*_: object) -> None:
    raise OperationalError("SELECT 1", {}, Exception("the server closed the connection"))


@pytest.mark.security_case(
    "The order of classification levels is changed until a starting gateway has read `institution.yaml`",
    "the gateway serves nothing, because it compares the rules in use with the ledger",
)
def test_rules_that_were_put_back_after_the_gateway_read_them_serve_nothing(deploying: Deploying) -> None:
    bench = deploying.office.bench
    follow(deploying.office.registry, bench.workplace())
    path = bench.settings.data / "institution.yaml"
    right = path.read_text()
    given = yaml.safe_load(right)
    changed = yaml.safe_dump({**given, "classification": given["classification"][::-1]})
    path.write_text(changed)
    misled = deploying.started_again()
    path.write_text(right)
    misled.refuses_all("was changed after")
    assert deploying.started_again().serves()
    assert deploying.started_without_registry().serves()
    path.write_text(changed)
    assert "was changed after" in deploying.started_without_registry().look().refused["last verified"]
