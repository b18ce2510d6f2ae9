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
from sovereign_pipeline_tests.serving.served_office import Deploying, ServedOffice
from sovereign_pipeline_tests.serving.tiny_adapters import change_last_byte

pytestmark = pytest.mark.slow
NOT_REACHED = "postgresql://127.0.0.1:1/registry"


def test_a_gateway_that_starts_while_the_registry_is_down_serves_what_it_verified_last(
    served_office: ServedOffice, deploying: Deploying
) -> None:
    office = served_office.office
    first, second = served_office.in_production(), served_office.in_production()
    follow(office.registry, office.bench.workplace())
    deploying.look()
    started = Deploying(served_office, registry_url=NOT_REACHED)
    base = started.sources.base_to_serve()
    assert base is not None and base.digest == first.base_model_digest
    deployed = started.look()
    assert [(each.adapter, each.in_reserve) for each in deployed.served] == [(second.id, False), (first.id, True)]
    assert [*deployed.refused] == ["registry"]
    assert started.look().served == deployed.served
    started.engine.adapters.clear()  # the engine was lost meanwhile
    assert [each.adapter for each in started.look().served] == [second.id, first.id]
    assert started.engine.names == [first.id, second.id]
    change_last_byte(served_office.weights_of(second))
    changed = Deploying(served_office, registry_url=NOT_REACHED).look()
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
def test_without_the_registry_nothing_else_is_served(served_office: ServedOffice, deploying: Deploying) -> None:
    office = served_office.office
    settings = office.bench.settings
    recalled, registered = served_office.in_production(), served_office.adapter()
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
    restarted = Deploying(served_office, registry_url=NOT_REACHED)
    assert restarted.sources.base_to_serve() is None
    without = restarted.look()
    assert (without.served, [each.adapter for each in without.withdrawn]) == ((), [recalled.id])
    withdrawn = json.loads(noted.read_text())["withdrawn"]
    changed: list[dict[str, Any]] = [{}, {"entries": 10**6, "withdrawn": withdrawn}]
    for changes in changed:
        noted.write_text(json.dumps({**older, **changes}))
        put_back = Deploying(served_office, registry_url=NOT_REACHED).look()
        assert put_back.served == () and (recalled.id if changes else "last verified") in put_back.refused
    noted.write_text(forged)
    forging = Deploying(served_office, registry_url=NOT_REACHED)
    assert "does not name this adapter" in forging.look().refused[registered.id]
    assert forging.engine.names == []
    noted.write_text("{")
    assert "cannot be read" in Deploying(served_office, registry_url=NOT_REACHED).look().refused["last verified"]


@pytest.mark.security_case(
    "The trust root is removed while adapters are served, and the gateway restarts while the registry is down",
    "all adapters are unloaded, and nothing is served",
)
def test_nothing_is_kept_of_a_registry_that_is_not_believed(served_office: ServedOffice, deploying: Deploying) -> None:
    office = served_office.office
    served_office.in_production()
    follow(office.registry, office.bench.workplace())
    deploying.look()
    trust = office.bench.settings.data / "trust"
    trust.rename(trust.with_name("away"))
    assert deploying.serves() == []
    trust.with_name("away").rename(trust)
    started = Deploying(served_office, registry_url=NOT_REACHED)
    assert started.look().served == ()
    with pytest.raises(RegistryUnreached):
        started.sources.base_to_serve()


@pytest.mark.security_case(
    "An adapter is recalled, and the gateway cannot write to its directory",
    "it is unloaded, and a restarted gateway serves nothing",
)
def test_a_note_that_cannot_be_written_lets_nothing_be_served(
    served_office: ServedOffice, deploying: Deploying, monkeypatch: pytest.MonkeyPatch
) -> None:
    office = served_office.office
    served_office.in_production()
    follow(office.registry, office.bench.workplace())
    deploying.look()
    recall(office.registry, Question(source="letters"), office.officers["layla"])

    def full(path: Path, content: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(deployable, "write_atomically", full)
    assert deploying.serves() == []
    assert Deploying(served_office, registry_url=NOT_REACHED).look().served == ()


@pytest.mark.security_case(
    "A newer release recalls an adapter, and a gateway of this release restarts",
    "it serves nothing: an unknown registry format does not count as an unreachable registry",
)
def test_a_newer_registry_is_not_one_that_is_down(served_office: ServedOffice, deploying: Deploying) -> None:
    office = served_office.office
    served_office.in_production()
    follow(office.registry, office.bench.workplace())
    deploying.look()
    recall(office.registry, Question(source="letters"), office.officers["layla"])
    change(office.registry, "UPDATE registry_format SET version = 99")
    started = Deploying(served_office)
    with pytest.raises(InputError, match="has format 99"):
        started.sources.base_to_serve()
    assert started.look().served == ()


@pytest.mark.security_case(
    "An officer withdraws an adapter while the registry is down, and the gateway restarts",
    "it is not served",
)
def test_what_was_taken_back_meanwhile_is_not_served(served_office: ServedOffice, deploying: Deploying) -> None:
    office = served_office.office
    first, staged = served_office.in_production(), served_office.staged()
    follow(office.registry, office.bench.workplace())
    assert len(deploying.look().served) == 2
    rollback(office.bench.settings, "lamps", None, office.officers["layla"], "It does harm.")
    deployed = Deploying(served_office, registry_url=NOT_REACHED).look()
    assert [each.adapter for each in deployed.served] == [first.id]
    assert "does not name this adapter" in deployed.refused[staged.id]


@pytest.mark.security_case(
    (
        "Another institution's trust root is installed while the registry is down, and then an older "
        "one of the right root"
    ),
    "both are rejected",
)
def test_a_foreign_trust_root_makes_no_older_one_the_newest(
    served_office: ServedOffice, deploying: Deploying, tmp_path: Path
) -> None:
    office = served_office.office
    served_office.in_production()
    follow(office.registry, office.bench.workplace())
    trust = office.bench.settings.data / "trust"
    shutil.copytree(trust, tmp_path / "older")
    add_officer(trust, generate().public_pem, "Huda Salem", ["review"], ["*"], office.roots[:2])
    assert deploying.look().served
    shutil.rmtree(trust)
    create_trust(trust, [generate() for _ in range(3)], {"pipeline": [office.pipeline.public_pem], "log": []})
    assert Deploying(served_office, registry_url=NOT_REACHED).look().served == ()
    shutil.rmtree(trust)
    shutil.copytree(tmp_path / "older", trust)
    assert Deploying(served_office).look().served == ()
