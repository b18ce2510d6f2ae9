"""A backup comes back elsewhere to the same digests; what it lacks is stated; what nobody signed is not restored."""

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sovereign_pipeline.backup import archive, description
from sovereign_pipeline.backup.aside import ASIDE, OURS, folder_aside
from sovereign_pipeline.backup.description import ARCHIVE, DESCRIPTION, SIGNATURE
from sovereign_pipeline.backup.restoring import RESTORED
from sovereign_pipeline.backup.taking import CREATED, check, take
from sovereign_pipeline.base.errors import ConflictError, InputError, IntegrityError, PrivacyError
from sovereign_pipeline.base.files import file_sha256
from sovereign_pipeline.record.audit_log import entries
from sovereign_pipeline.record.checkpoints import checkpoint_file
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.record.keys import generate
from sovereign_pipeline.record.sealing import open_store
from sovereign_pipeline.record.trust_changes import revoke, rotate_key
from sovereign_pipeline.record.verifying import verify_registry
from sovereign_pipeline_tests.artifacts.test_confined import WORD
from sovereign_pipeline_tests.backup.conftest import ACT, Office, act
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.trusted import demonstration_key


@pytest.mark.security_case(
    "Somebody finds the medium with a backup.", "No word of a letter, no key and no name in it can be read."
)
def test_a_backup_comes_back_on_another_machine(office: Office, tmp_path: Path) -> None:
    taken = office.take(tmp_path / "backup")
    assert {path.name for path in (tmp_path / "backup").iterdir()} == {ARCHIVE, DESCRIPTION, SIGNATURE}
    assert not any(WORD in path.read_bytes() for path in (tmp_path / "backup").iterdir())
    checked = check(office.settings, tmp_path / "backup", office.pair.private, print)
    settings = office.elsewhere(tmp_path / "other")
    done = office.restore(settings, tmp_path / "backup")
    assert (done.artifacts, done.lost, checked.artifacts) == (5, 0, 5)  # two, and what their gates came to
    assert not done.was_compared
    store = open_store(settings, settings.corpus)
    assert [store.open(ref).ref for ref in office.refs] == list(office.refs)
    assert (settings.vault / "sealed.age").read_bytes() == b"sealed"
    log = entries(open_registry(settings))
    assert [each.action for each in log[-2:]] == [CREATED, RESTORED]
    assert log[-1].subjects["backup"] == taken.description.archive and log[-1].subjects["reason"] == "the disk died"
    assert verify_registry(open_registry(settings)).ledger.newest.sequence == done.entries == checked.entries + 1
    act(settings)
    modes = {path.stat().st_mode & 0o077 for path in (settings.home, *settings.home.rglob("*"), settings.corpus)}
    assert modes == {0}
    with pytest.raises(InputError, match="not empty"):
        office.restore(settings, tmp_path / "backup")


def test_a_backup_is_of_one_moment_while_acts_are_done(office: Office, tmp_path: Path) -> None:
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            act(office.settings)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for number in range(3):
            office.take(tmp_path / f"backup-{number}")
    finally:
        stop.set()
        thread.join()
    sizes = [
        office.restore(office.elsewhere(tmp_path / f"other-{number}"), tmp_path / f"backup-{number}").entries
        for number in range(3)
    ]
    assert sizes == sorted(set(sizes))


@pytest.mark.security_case(
    "An older state of the ledger is restored, so that what was done since can be done again.",
    "Refused, naming each lost entry, unless the operator states how many are lost; the restore's entry holds it.",
)
def test_what_is_lost_must_be_stated(office: Office, tmp_path: Path) -> None:
    office.take(tmp_path / "backup")
    act(office.settings)
    act(office.settings)
    size, known = len(entries(open_registry(office.settings))), (checkpoint_file(office.settings),)
    settings = office.elsewhere(tmp_path / "other")
    with pytest.raises(ConflictError, match=rf"lacks 2 entries: entry {size - 1} \(unknown\), entry {size} "):
        office.restore(settings, tmp_path / "backup", known)
    with pytest.raises(ConflictError):
        office.restore(settings, tmp_path / "backup", known, loses=1)
    with pytest.raises(ConflictError, match="2 were stated"):
        office.restore(settings, tmp_path / "backup", (), loses=2)
    assert not list((tmp_path / "other").iterdir())
    done = office.restore(settings, tmp_path / "backup", known, loses=2)
    assert (done.lost, done.was_compared) == (2, True)
    assert entries(open_registry(settings))[-1].subjects["lost"] == [size - 1, size]


def test_a_second_copy_names_what_is_lost_and_is_kept(
    institution: DemoInstitution, make_office: Callable[[], Office], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "medium" / "copy"
    copy.parent.mkdir()
    copy.touch()
    monkeypatch.setenv("SOVEREIGN_LEDGER_COPY", str(copy))
    office = make_office()
    office.take(tmp_path / "backup")
    act(office.settings)
    before, settings = copy.read_bytes(), office.elsewhere(tmp_path / "other")
    with pytest.raises(ConflictError, match=rf"lacks 1 entry: entry \d+ \({ACT}\)\."):
        office.restore(settings, tmp_path / "backup")
    done = office.restore(office.elsewhere(tmp_path / "third"), tmp_path / "backup", loses=1)
    assert done.kept_aside is not None and done.kept_aside.read_bytes() == before
    third = office.elsewhere(tmp_path / "third")
    act(third)
    assert verify_registry(open_registry(third)).ledger.in_copy == done.entries + 1


def test_a_checkpoint_of_another_course_of_events_is_refused(office: Office, tmp_path: Path) -> None:
    office.take(tmp_path / "backup")
    first = office.elsewhere(tmp_path / "first")
    office.restore(first, tmp_path / "backup")
    office.take(tmp_path / "later")
    with pytest.raises(IntegrityError, match="other entries than this checkpoint covers"):
        office.restore(office.elsewhere(tmp_path / "other"), tmp_path / "later", (checkpoint_file(first),))


@pytest.mark.security_case(
    "Somebody who has the public key encrypts a backup of their own, or changes one.",
    "Refused: the pipeline signs the digest of each backup.",
)
def test_what_the_pipeline_did_not_sign_is_not_restored(office: Office, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    office.take(backup)
    content = (backup / ARCHIVE).read_bytes()
    with archive.written(tmp_path / "own", office.pair.public):
        pass
    for changed in ((tmp_path / "own").read_bytes(), content[:-1] + bytes([content[-1] ^ 1])):
        (backup / ARCHIVE).write_bytes(changed)
        with pytest.raises(IntegrityError, match="not the bytes of the backup"):
            check(office.settings, backup, office.pair.private, print)
    made = description.Description.model_validate_json((backup / DESCRIPTION).read_bytes())
    own = made.model_copy(update={"archive": file_sha256(tmp_path / "own")})
    (backup / ARCHIVE).write_bytes((tmp_path / "own").read_bytes())
    description.write(backup, own, demonstration_key("officer-1"))
    with pytest.raises(IntegrityError, match="has not the role pipeline"):
        office.restore(office.elsewhere(tmp_path / "other"), backup)
    description.write(backup, own, demonstration_key("pipeline"))  # an empty archive, signed
    with pytest.raises(IntegrityError):
        office.restore(office.elsewhere(tmp_path / "third"), backup)


@pytest.mark.security_case(
    "A backup is signed with a key of the pipeline that was stolen and is revoked.",
    "Refused if its ledger reaches beyond the entry from which on the key does not count.",
)
def test_a_key_that_was_replaced_counts_for_what_was_taken_before(office: Office, tmp_path: Path) -> None:
    trust, roots = office.settings.data / "trust", [demonstration_key("root-1"), demonstration_key("root-2")]
    size = office.take(tmp_path / "backup").description.head.size
    replaced, old = generate(), demonstration_key("pipeline")
    rotate_key(trust, "pipeline", replaced.public_pem, size + 1, roots)
    assert check(office.settings, tmp_path / "backup", office.pair.private, print).entries == size
    revoke(trust, old.keyid, size, roots)
    with pytest.raises(IntegrityError, match="revoked from entry"):
        check(office.settings, tmp_path / "backup", office.pair.private, print)


def test_another_key_does_not_open_a_backup(office: Office, tmp_path: Path) -> None:
    import pyrage

    office.take(tmp_path / "backup")
    for key in (str(pyrage.x25519.Identity.generate()), "no key"):
        with pytest.raises(PrivacyError):
            check(office.settings, tmp_path / "backup", key, print)


@pytest.mark.security_case(
    "A backup, its verification or a repair is killed: copies without encryption stay",
    "The next one removes them, of no process that lives and of nobody else",
)
def test_what_a_killed_process_left_is_removed(office: Office, tmp_path: Path) -> None:
    office.take(tmp_path / "backup")
    for parent, acts in (
        (office.settings.home, lambda: office.take(tmp_path / "next")),
        (office.settings.home.parent, lambda: check(office.settings, tmp_path / "backup", office.pair.private, print)),
    ):
        with folder_aside(parent) as living:
            others = [parent / f"{ASIDE}2026", parent / f"{ASIDE}linked{OURS}"]
            others[0].mkdir()
            others[1].symlink_to(others[0])
            left = parent / f"{ASIDE}a1b2c3d4{OURS}"
            left.mkdir()
            (left / "pipeline.key").write_bytes(WORD)
            acts()
            assert not left.exists() and living.is_dir() and others[0].is_dir() and others[1].is_symlink()
        assert not living.exists()


def test_a_registry_on_a_server_of_another_kind_has_a_backup_of_its_own(office: Office, tmp_path: Path) -> None:
    settings = replace(office.settings, registry_url="mysql://localhost/registry")
    with pytest.raises(InputError, match="nor on a PostgreSQL server"):
        take(settings, tmp_path / "backup", office.pair.public, print)
