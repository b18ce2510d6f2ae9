"""A gateway that starts while the registry is down serves what it verified last and its flags name, nothing else."""

import errno
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.record.database import RegistryUnreached
from sovereign_pipeline.record.keys import generate
from sovereign_pipeline.record.trust_changes import add_officer, create_trust
from sovereign_pipeline.release.recall import Question
from sovereign_pipeline.serving import deployable
from sovereign_pipeline.serving.rollout.publishing import follow
from sovereign_pipeline.serving.rollout.rollback import rollback
from sovereign_pipeline_tests.officers import recall
from sovereign_pipeline_tests.record.owner import change
from sovereign_pipeline_tests.serving.served_office import Deploying
from sovereign_pipeline_tests.serving.tiny_adapters import change_last_byte

pytestmark = pytest.mark.slow


def test_a_gateway_that_starts_while_the_registry_is_down_serves_what_it_verified_last(deploying: Deploying) -> None:
    office, first, second = deploying.office, deploying.first, deploying.served.in_production()
    follow(office.registry, office.bench.workplace())
    deploying.look()
    started = deploying.started_without_registry()
    base = started.sources.base_to_serve()
    assert base is not None and base.digest == first.base_model_digest
    deployed = started.look()
    assert [(each.adapter, each.in_reserve) for each in deployed.served] == [(second.id, False), (first.id, True)]
    assert [*deployed.refused] == ["registry"]
    assert started.look().served == deployed.served
    started.engine.adapters.clear()  # the engine was lost meanwhile
    assert [each.adapter for each in started.look().served] == [second.id, first.id]
    assert started.engine.names == [first.id, second.id]
    change_last_byte(deploying.served.weights_of(second))
    changed = deploying.started_without_registry().look()
    assert [each.adapter for each in changed.served] == [first.id]
    assert "the bytes are not the recorded ones" in changed.refused[second.id]


@pytest.mark.security_case(
    "An adapter is recalled, and the gateway restarts while the registry is down",
    "it is not served, even if an older record of verified adapters is restored",
)
@pytest.mark.security_case(
    "Someone with write access to the gateway's directory records an adapter as verified without an officer",
    "it is not served, because no flag contains it",
)
def test_without_the_registry_nothing_else_is_served(deploying: Deploying) -> None:
    office, settings = deploying.office, deploying.office.bench.settings
    recalled, registered = deploying.first, deploying.served.adapter()
    follow(office.registry, office.bench.workplace())
    deploying.look()
    noted = settings.serving / "last-verified.json"
    assert recalled.id in noted.read_text()
    older = json.loads(noted.read_text())
    forged = json.dumps({**older, "entries": 10**6})
    for old, new in {
        recalled.id: registered.id,
        recalled.record_digest: registered.record_digest,
        recalled.record_manifest_sha256: registered.record_manifest_sha256,
        recalled.manifest_sha256: registered.manifest_sha256,
    }.items():
        forged = forged.replace(old, new)
    recall(office.registry, Question(source="letters"), office.officers["layla"])
    deploying.look()
    restarted = deploying.started_without_registry()
    assert restarted.sources.base_to_serve() is None
    without = restarted.look()
    assert (without.served, [each.adapter for each in without.withdrawn]) == ((), [recalled.id])
    withdrawn = json.loads(noted.read_text())["withdrawn"]
    changed: list[dict[str, Any]] = [{}, {"entries": 10**6, "withdrawn": withdrawn}]
    for changes in changed:
        noted.write_text(json.dumps({**older, **changes}))
        put_back = deploying.started_without_registry().look()
        assert put_back.served == () and (recalled.id if changes else "last verified") in put_back.refused
    noted.write_text(forged)
    forging = deploying.started_without_registry()
    assert "does not name this adapter" in forging.look().refused[registered.id]
    assert forging.engine.names == []
    noted.write_text("{")
    assert "cannot be read" in deploying.started_without_registry().look().refused["last verified"]


@pytest.mark.security_case(
    "The trust root is removed while adapters are served, and the gateway restarts while the registry is down",
    "all adapters are unloaded, and nothing is served",
)
def test_nothing_is_kept_of_a_registry_that_is_not_believed(deploying: Deploying) -> None:
    office = deploying.office
    follow(office.registry, office.bench.workplace())
    deploying.look()
    trust = office.bench.settings.data / "trust"
    trust.rename(trust.with_name("away"))
    assert deploying.serves() == []
    trust.with_name("away").rename(trust)
    started = deploying.started_without_registry()
    assert started.look().served == ()
    with pytest.raises(RegistryUnreached):
        started.sources.base_to_serve()


@pytest.mark.security_case(
    "An adapter is recalled, and the gateway cannot write to its directory",
    "it is unloaded, and a restarted gateway serves nothing",
)
def test_a_note_that_cannot_be_written_lets_nothing_be_served(
    deploying: Deploying, monkeypatch: pytest.MonkeyPatch
) -> None:
    office = deploying.office
    follow(office.registry, office.bench.workplace())
    deploying.look()
    recall(office.registry, Question(source="letters"), office.officers["layla"])

    def full(path: Path, content: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(deployable, "write_atomically", full)
    assert deploying.serves() == []
    assert deploying.started_without_registry().look().served == ()


@pytest.mark.security_case(
    "A newer release recalls an adapter, and a gateway of this release restarts",
    "it serves nothing: an unknown registry format does not count as an unreachable registry",
)
def test_a_newer_registry_is_not_one_that_is_down(deploying: Deploying) -> None:
    office = deploying.office
    follow(office.registry, office.bench.workplace())
    deploying.look()
    recall(office.registry, Question(source="letters"), office.officers["layla"])
    change(office.registry, "UPDATE registry_format SET version = 99")
    started = deploying.started_again()
    with pytest.raises(InputError, match="has format 99"):
        started.sources.base_to_serve()
    assert started.look().served == ()


@pytest.mark.security_case(
    "An officer withdraws an adapter while the registry is down, and the gateway restarts", "it is not served"
)
def test_what_was_taken_back_meanwhile_is_not_served(deploying: Deploying) -> None:
    office, first, staged = deploying.office, deploying.first, deploying.served.staged()
    follow(office.registry, office.bench.workplace())
    assert len(deploying.look().served) == 2
    rollback(office.bench.settings, "lamps", None, office.officers["layla"], "It does harm.")
    deployed = deploying.started_without_registry().look()
    assert [each.adapter for each in deployed.served] == [first.id]
    assert "does not name this adapter" in deployed.refused[staged.id]


@pytest.mark.security_case(
    (
        "Another institution's trust root is installed while the registry is down, and then an older "
        "one of the right root"
    ),
    "both are rejected",
)
def test_a_foreign_trust_root_makes_no_older_one_the_newest(deploying: Deploying, tmp_path: Path) -> None:
    office = deploying.office
    follow(office.registry, office.bench.workplace())
    trust = office.bench.settings.data / "trust"
    shutil.copytree(trust, tmp_path / "older")
    add_officer(trust, generate().public_pem, "Huda Salem", ["review"], ["*"], office.roots[:2])
    assert deploying.look().served
    shutil.rmtree(trust)
    create_trust(trust, [generate() for _ in range(3)], {"pipeline": [office.pipeline.public_pem], "log": []})
    assert deploying.started_without_registry().look().served == ()
    shutil.rmtree(trust)
    shutil.copytree(tmp_path / "older", trust)
    assert deploying.started_again().look().served == ()
