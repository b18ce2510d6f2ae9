"""Purging frees the disk of weights that nobody needs, on record; everything else of the adapter stays and verifies."""

from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.base.errors import ConflictError, IntegrityError, SignInError
from sovereign_pipeline.base.text import silent
from sovereign_pipeline.record.audit_log import append, entries
from sovereign_pipeline.record.catalog import PURGED, Purge, purge_dates
from sovereign_pipeline.record.keys import FileSigner, generate
from sovereign_pipeline.record.tables import Adapter
from sovereign_pipeline.registry.verification import VerificationReport, verify_adapter
from sovereign_pipeline.release.purge import finish_purge, plan_purge, purge, unused
from sovereign_pipeline_tests.release.conftest import TO_PRODUCTION, Office
from sovereign_pipeline_tests.release.holders import with_origins


def weights(office: Office, adapter: Adapter) -> list[Path]:
    return sorted(office.bench.store.path_of(adapter.adapter_digest).rglob("*.safetensors"))


def purged(office: Office, adapter: Adapter, signer: FileSigner | None = None) -> Purge:
    bench = office.bench
    plan = plan_purge(office.registry, bench.store, bench.settings, adapter.id, silent)
    signer = signer or office.officers["layla"]
    return purge(office.registry, bench.store, bench.settings, signer, plan, "The disk is full.")


def finished(office: Office, adapter: Adapter) -> tuple[Purge, int] | None:
    return finish_purge(office.registry, office.bench.store, office.bench.settings, adapter.id)


def verified(office: Office, adapter: Adapter) -> VerificationReport:
    return verify_adapter(office.registry, office.bench.store, office.bench.settings, adapter.id)


def test_what_has_ended_is_freed_on_record_and_still_verifies(office: Office) -> None:
    adapter = office.adapter("retire")
    before = verified(office, adapter)
    (file,) = weights(office, adapter)
    size = file.stat().st_size
    recorded = purged(office, adapter)
    assert (recorded.bytes, weights(office, adapter)) == (size, [])
    after = verified(office, adapter)
    assert after.outcomes == ("verified", "weights purged")
    (gone,) = after.purged
    assert (gone.by, gone.bytes, gone.adapter, gone.reason) == ("Layla Haddad", size, adapter.id, "The disk is full.")
    assert before.bytes - after.bytes == size
    assert [each.what for each in after.checked] == [each.what for each in before.checked]
    (entry,) = (each for each in entries(office.registry) if each.action == PURGED)
    assert entry.subjects["bytes"] == size
    assert "Layla" not in str(entry.subjects)


@pytest.mark.security_case("Weights are deleted manually", "verification names the file, unless a purge is logged")
def test_a_missing_file_without_a_purge_on_record_stays_an_error(office: Office) -> None:
    adapter, other = office.adapter(), office.adapter()
    for each in (adapter, other):
        office.move("retire", each)
    purged(office, other)
    (file,) = weights(office, adapter)
    file.unlink()
    with pytest.raises(IntegrityError, match=r"adapter_model\.safetensors: the file is missing"):
        verified(office, adapter)


def test_what_is_not_weights_may_not_be_gone_after_a_purge(office: Office) -> None:
    adapter = office.adapter("retire")
    purged(office, adapter)
    config = office.bench.store.path_of(adapter.adapter_digest) / "adapter" / "adapter_config.json"
    content = config.read_bytes()
    config.write_bytes(content + b" ")
    with pytest.raises(IntegrityError, match="the bytes are not the recorded ones"):
        verified(office, adapter)
    config.write_bytes(content)
    (file,) = [config.with_name("adapter_model.safetensors")]
    file.write_bytes(b"other weights")
    with pytest.raises(IntegrityError, match="the bytes are not the recorded ones"):
        verified(office, adapter)


def test_nothing_in_use_is_purged(office: Office) -> None:
    adapter = office.adapter()
    for transition in TO_PRODUCTION:
        with pytest.raises(ConflictError, match="so its weights cannot be purged"):
            purged(office, adapter)
        office.move(transition, adapter)
    with pytest.raises(ConflictError, match="so its weights cannot be purged"):
        purged(office, adapter)
    assert weights(office, adapter)


def test_only_an_officer_who_may_retire_purges(office: Office) -> None:
    adapter = office.adapter("retire")
    for stranger in (generate(), office.pipeline):
        with pytest.raises((IntegrityError, SignInError)):
            purged(office, adapter, stranger)
    assert weights(office, adapter)
    assert PURGED not in {each.action for each in entries(office.registry)}


@pytest.mark.security_case("An entry about a purge has no officer's signature", "verification rejects it")
def test_an_entry_that_no_officer_signed_excuses_nothing(office: Office) -> None:
    adapter, other = office.adapter(), office.adapter()
    for each in (adapter, other):
        office.move("retire", each)
    purged(office, other)
    (real,) = (each for each in entries(office.registry) if each.action == PURGED)
    (file,) = weights(office, adapter)
    file.unlink()
    with office.registry.writing() as session:
        forged = {**real.subjects, "adapter": adapter.id, "weights": [adapter.adapter_digest]}
        append(session, real.actor, PURGED, forged)
    with pytest.raises(IntegrityError, match=r"not about|differs from the signed purge"):
        verified(office, adapter)
    verified(office, other)


def test_an_interrupted_purge_ends_the_same_when_it_is_run_again(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.bench.recipe["training"]["sft"] = {"adapter": "none", "learning_rate": 1e-4}
    adapter = office.adapter("retire")
    shards = weights(office, adapter)
    assert len(shards) == 2
    removed: list[Path] = []
    unlink = Path.unlink

    def interrupted(path: Path, **given: Any) -> None:
        if path.suffix == ".safetensors" and removed:
            raise KeyboardInterrupt
        if path.suffix == ".safetensors":
            removed.append(path)
        unlink(path, **given)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(Path, "unlink", interrupted)
        purged(office, adapter)
    assert len(weights(office, adapter)) == 1
    assert "weights purged" in verified(office, adapter).outcomes
    done = finished(office, adapter)
    assert done is not None
    assert done[1] > 0
    assert weights(office, adapter) == []
    assert finished(office, adapter) == (done[0], 0)
    assert [each.action for each in entries(office.registry)].count(PURGED) == 1


def test_what_another_version_or_a_child_rests_on_stays(office: Office) -> None:
    office.bench.chain = with_origins()
    parent = office.adapter()
    office.bench.recipe["training"]["start_from"] = parent.id
    child = office.adapter()
    twin = office.twin_of(child)
    office.move("retire", parent)
    with pytest.raises(ConflictError, match=rf"{child.id} needs the weights of {parent.id}"):
        purged(office, parent)
    office.move("retire", child)
    with pytest.raises(ConflictError, match=rf"{twin.id} needs the weights of {child.id}"):
        purged(office, child)
    listed = unused(office.registry, office.bench.store, None, silent)
    assert {each.adapter: each.needed_by for each in listed} == {parent.id: twin.id, child.id: twin.id}
    office.move("retire", twin)
    for each in (parent, child):
        purged(office, each)
    assert [each.adapter for each in verified(office, twin).purged] == [child.id, parent.id]
    with office.registry.reading() as session:
        assert purge_dates(session).keys() == {parent.id, child.id}
    assert [each.adapter for each in unused(office.registry, office.bench.store, None, silent)] == [twin.id]
