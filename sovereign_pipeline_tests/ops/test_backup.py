"""A backup comes back elsewhere to the same digests; what it lacks is stated; what nobody signed is not restored."""

import io
import tarfile
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pyrage
import pytest

from sovereign_pipeline.base.errors import ConflictError, InputError, IntegrityError, NotFoundError, PrivacyError
from sovereign_pipeline.base.files import canonical_json, file_sha256
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.corpus.stages import DOCUMENTS, SOURCES
from sovereign_pipeline.ops import backup_archive, restore
from sovereign_pipeline.ops.backup import ASIDE, CREATED, OURS, folder_aside, take
from sovereign_pipeline.ops.backup_archive import ARCHIVE, DESCRIPTION, LIST, SIGNATURE, Description, Listed
from sovereign_pipeline.ops.restore import REPAIRED, RESTORED, check, extract, repair
from sovereign_pipeline.record import checkpoints, notes
from sovereign_pipeline.record.audit_log import entries
from sovereign_pipeline.record.checkpoints import checkpoint_file
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.record.keys import generate, read_public_file
from sovereign_pipeline.record.sealing import open_store
from sovereign_pipeline.record.trust_changes import add_key, revoke, rotate_key
from sovereign_pipeline.record.verifying import verify_registry
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.ops.conftest import ACT, Office, Pair, act
from sovereign_pipeline_tests.record.test_confined import WORD
from sovereign_pipeline_tests.trusted import demonstration_key


@pytest.mark.security_case("Someone finds a medium with a backup", "no document text, key or name can be read")
def test_a_backup_comes_back_on_another_machine(office: Office, tmp_path: Path) -> None:
    taken = office.take(tmp_path / "backup")
    assert {path.name for path in (tmp_path / "backup").iterdir()} == {ARCHIVE, DESCRIPTION, SIGNATURE}
    assert not any(WORD in path.read_bytes() for path in (tmp_path / "backup").iterdir())
    checked = check(office.settings, tmp_path / "backup", office.pair.private, print)
    settings = office.elsewhere(tmp_path / "other #1, 100%41?")  # letters that mean something in an address
    done = office.restore(settings, tmp_path / "backup")
    assert (done.artifacts, done.lost, checked.artifacts) == (6, 0, 6)  # two, and what their gates came to
    assert not done.was_compared
    store = open_store(settings, settings.corpus)
    assert [store.open(ref).ref for ref in office.refs] == list(office.refs)
    assert (settings.vault / "sealed.age").read_bytes() == b"sealed"
    log = entries(open_registry(settings))
    assert [each.action for each in log[-2:]] == [CREATED, RESTORED]
    assert log[-1].subjects["backup"] == taken.description.archive and log[-1].subjects["reason"] == "the disk died"
    assert verify_registry(open_registry(settings)).ledger.newest.sequence == done.entries == checked.entries + 1
    act(settings)
    (settings.home / "notes.db").write_bytes(b"SQLite format 3\0 of nothing")
    (settings.home / "notes.db").chmod(0o600)
    again = take(settings, tmp_path / "again", office.pair.public, print)
    assert again.description.files > taken.description.files
    assert check(settings, tmp_path / "again", office.pair.private, print).entries == done.entries + 2
    modes = {path.stat().st_mode & 0o077 for path in (settings.home, *settings.home.rglob("*"), settings.corpus)}
    assert modes == {0}
    with pytest.raises(InputError, match="not empty"):
        office.restore(settings, tmp_path / "backup")
    for key in (str(pyrage.x25519.Identity.generate()), "no key"):
        with pytest.raises(PrivacyError):
            check(office.settings, tmp_path / "backup", key, print)
    with pytest.raises(InputError, match="nor on a PostgreSQL server"):
        take(
            replace(office.settings, registry_url="mysql://localhost/registry"),
            tmp_path / "c",
            office.pair.public,
            print,
        )


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
    "An older state of the ledger is restored, so that later acts could be repeated",
    "rejected with each lost entry, unless the operator states their number, which the restore's entry records",
)
def test_what_is_lost_must_be_stated(office: Office, tmp_path: Path) -> None:
    office.take(tmp_path / "backup")
    act(office.settings)
    act(office.settings)
    size, known = len(entries(open_registry(office.settings))), (checkpoint_file(office.settings),)
    settings = office.elsewhere(tmp_path / "other")
    with pytest.raises(ConflictError, match=f"lacks 2 later entries: entries {size - 1} to {size}"):
        office.restore(settings, tmp_path / "backup", known)
    with pytest.raises(ConflictError):
        office.restore(settings, tmp_path / "backup", known, loses=1)
    with pytest.raises(ConflictError, match="--loses states 2 lost entries"):
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
    with pytest.raises(ConflictError, match=rf"lacks 1 later entry: entry \d+ \({ACT}\)\."):
        office.restore(settings, tmp_path / "backup")
    done = office.restore(office.elsewhere(tmp_path / "third"), tmp_path / "backup", loses=1)
    assert done.kept_aside is not None and done.kept_aside.read_bytes() == before
    third = office.elsewhere(tmp_path / "third")
    act(third)
    assert verify_registry(open_registry(third)).ledger.in_copy == done.entries + 2  # also: the copy is filled


def test_a_checkpoint_of_another_course_of_events_is_refused(office: Office, tmp_path: Path) -> None:
    office.take(tmp_path / "backup")
    first = office.elsewhere(tmp_path / "first")
    office.restore(first, tmp_path / "backup")
    office.take(tmp_path / "later")
    with pytest.raises(IntegrityError, match="differ from those that this checkpoint covers"):
        office.restore(office.elsewhere(tmp_path / "other"), tmp_path / "later", (checkpoint_file(first),))


@pytest.mark.security_case(
    "Someone with the public key encrypts a forged backup, or changes one",
    "rejected: the pipeline signs each backup's digest",
)
def test_what_the_pipeline_did_not_sign_is_not_restored(office: Office, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    office.take(backup)
    content = (backup / ARCHIVE).read_bytes()
    with backup_archive.written(tmp_path / "own", office.pair.public):
        pass
    for changed in ((tmp_path / "own").read_bytes(), content[:-1] + bytes([content[-1] ^ 1])):
        (backup / ARCHIVE).write_bytes(changed)
        with pytest.raises(IntegrityError, match="SHA-256 differs from the signed one"):
            check(office.settings, backup, office.pair.private, print)
    made = backup_archive.Description.model_validate_json((backup / DESCRIPTION).read_bytes())
    own = made.model_copy(update={"archive": file_sha256(tmp_path / "own")})
    (backup / ARCHIVE).write_bytes((tmp_path / "own").read_bytes())
    backup_archive.write(backup, own, demonstration_key("officer-1"))
    with pytest.raises(IntegrityError, match="does not have the role pipeline"):
        office.restore(office.elsewhere(tmp_path / "other"), backup)
    backup_archive.write(backup, own, demonstration_key("pipeline"))  # an empty archive, signed
    with pytest.raises(IntegrityError):
        office.restore(office.elsewhere(tmp_path / "third"), backup)


@pytest.mark.security_case("A file, folder or link is added to a backup.", "rejected by name")
def test_a_backup_is_exactly_its_files(office: Office, tmp_path: Path) -> None:
    backup = tmp_path / "backup"
    office.take(backup)
    planted = [backup / name for name in ("extra", ".hidden", "keys\udcff", "folder", "link")]
    for path in planted:
        if path.name == "folder":
            path.mkdir()
        elif path.name == "link":
            path.symlink_to(backup / ARCHIVE)
        else:
            path.write_bytes(b"x")
        with pytest.raises(IntegrityError):
            check(office.settings, backup, office.pair.private, print)
        with pytest.raises(IntegrityError):
            office.restore(office.elsewhere(tmp_path / "other"), backup)
        path.rmdir() if path.name == "folder" else path.unlink()
    check(office.settings, backup, office.pair.private, print)


@pytest.mark.security_case(
    "A backup is signed with a stolen pipeline key that has been revoked",
    "rejected if its ledger reaches beyond the entry of the revocation",
)
def test_a_key_that_was_replaced_counts_for_what_was_taken_before(office: Office, tmp_path: Path) -> None:
    trust, roots = office.settings.data / "trust", [demonstration_key("root-1"), demonstration_key("root-2")]
    size = office.take(tmp_path / "backup").description.head.size
    replaced, old = generate(), demonstration_key("pipeline")
    rotate_key(trust, "pipeline", replaced.public_pem, size + 1, roots)
    assert check(office.settings, tmp_path / "backup", office.pair.private, print).entries == size
    revoke(trust, old.keyid, size, roots)
    with pytest.raises(IntegrityError, match="revoked from index"):
        check(office.settings, tmp_path / "backup", office.pair.private, print)


@pytest.mark.security_case(
    "A backup has an invented ledger that another key signed", "rejected if the trust root names the ledger's key"
)
def test_a_ledger_is_signed_by_a_key_of_the_trust_root(office: Office, tmp_path: Path) -> None:
    trust, roots = office.settings.data / "trust", [demonstration_key("root-1"), demonstration_key("root-2")]
    office.take(tmp_path / "backup")
    own, another = tmp_path / "own.pub", tmp_path / "another.pub"
    log = checkpoints.signer(office.settings)
    assert log is not None
    own.write_text(f"{log.verifier}\n")
    another.write_text(f"{notes.new_signer('ledger.example', notes.SIGNS).verifier}\n")
    add_key(trust, "log", read_public_file(another), roots)
    with pytest.raises(IntegrityError, match="does not give the ledger's key"):
        check(office.settings, tmp_path / "backup", office.pair.private, print)
    add_key(trust, "log", read_public_file(own), roots)
    check(office.settings, tmp_path / "backup", office.pair.private, print)


@pytest.mark.security_case(
    "A backup, its verification or a repair is killed and leaves unencrypted copies",
    "the next command removes them, but nothing of running processes or other accounts",
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


VERDICT = "verdict.json"
"""Of a gate's record; any file of an artifact in the home."""


def repaired(office: Office, backup: Path, digest: str) -> list[str]:
    return repair(office.settings, backup, digest, office.pair.private, print)


def places(settings: Settings, digest: str) -> tuple[Path, Path]:
    return settings.artifacts / digest / SOURCES, settings.corpus / "artifacts" / digest / DOCUMENTS


def test_missing_and_changed_files_come_back(office: Office, tmp_path: Path) -> None:
    office.take(tmp_path / "backup")
    raw = office.refs[0]
    sources, documents = places(office.settings, raw.digest)
    sources.write_bytes(sources.read_bytes() + b" ")
    documents.unlink()
    with pytest.raises(IntegrityError):
        office.workplace.store.open(raw)
    assert repaired(office, tmp_path / "backup", raw.digest) == [SOURCES, DOCUMENTS]
    assert office.workplace.store.open(raw).ref == raw
    last = entries(open_registry(office.settings))[-1]
    assert (last.action, last.subjects["artifact"], last.subjects["files"]) == (
        REPAIRED,
        raw.digest,
        [SOURCES, DOCUMENTS],
    )
    assert repaired(office, tmp_path / "backup", raw.digest) == []
    with pytest.raises(NotFoundError, match="does not contain"):
        repaired(office, tmp_path / "backup", "0" * 64)
    for digest in ("../../etc", raw.digest[:12]):
        with pytest.raises(InputError, match="is not the digest"):
            repaired(office, tmp_path / "backup", digest)
    assert len(entries(open_registry(office.settings))) == last.sequence


@pytest.mark.security_case("A repair would restore purged weights", "they stay removed")
def test_what_was_purged_stays_gone(office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = next(office.settings.artifacts.glob(f"*/{VERDICT}"))
    office.take(tmp_path / "backup")
    verdict.unlink()
    monkeypatch.setattr(restore, "purged_files", lambda settings, digest: frozenset({VERDICT}))
    assert repaired(office, tmp_path / "backup", verdict.parent.name) == []
    assert not verdict.exists()


Take = Callable[[Listed, Iterator[bytes]], None]
LARGE = b"lantern " * 400_000


def sealed(path: Path, pair: Pair, *members: tuple[tarfile.TarInfo, bytes]) -> None:
    """An archive of any members, without `Archive`."""
    plain = io.BytesIO()
    with tarfile.open(fileobj=plain, mode="w") as tar:
        for member, content in members:
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    path.write_bytes(pyrage.encrypt(plain.getvalue(), [pyrage.x25519.Recipient.from_str(pair.public)]))


def read(path: Path, pair: Pair, take: Take = lambda listed, blocks: None) -> list[Listed]:
    """Of an archive that was signed as it is."""
    return backup_archive.read(path, file_sha256(path), pair.private, take)


def test_files_of_any_size_and_name_come_back(pair: Pair, tmp_path: Path) -> None:
    files = {"home/empty": b"", "home/large": LARGE, f"home/{'long' * 60}/مصباح": b"x"}
    with backup_archive.written(tmp_path / "archive", pair.public) as opened:
        for number, (name, content) in enumerate(files.items()):
            (tmp_path / str(number)).write_bytes(content)
            opened.add(name, tmp_path / str(number))
    found: dict[str, bytes] = {}

    def take(listed: Listed, blocks: Iterator[bytes]) -> None:
        found[listed.name] = b"".join(blocks)

    listed = read(tmp_path / "archive", pair, take)
    assert found == files and [each.size for each in listed] == [len(content) for content in files.values()]


@pytest.mark.security_case(
    "A backup contains a path outside its directories, a link, or a file twice", "rejected by name"
)
@pytest.mark.parametrize(
    "name", ["home/../../evil", "/etc/evil", "evil", "home", "data/trust/x", "home/a/../../b", "home//etc/evil"]
)
def test_a_name_that_leads_elsewhere_is_refused(pair: Pair, tmp_path: Path, name: str) -> None:
    sealed(tmp_path / "backup.tar.age", pair, (tarfile.TarInfo(name), b"x"), (tarfile.TarInfo(LIST), b"[]"))
    settings = Settings(home=tmp_path / "home", data=tmp_path / "data")
    (tmp_path / "aside").mkdir()
    made = Description(created="", archive=file_sha256(tmp_path / "backup.tar.age"), files=1, checkpoint="")
    with pytest.raises(IntegrityError, match="does not belong in a backup"):
        extract(settings, tmp_path, made, pair.private, tmp_path / "aside", print)
    assert {path.name for path in tmp_path.iterdir()} == {"backup.tar.age", "aside"}


def test_an_archive_is_exactly_its_list(pair: Pair, tmp_path: Path) -> None:
    link = tarfile.TarInfo("home/link")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    file, stated = tarfile.TarInfo("home/a"), canonical_json([{"name": "home/a", "size": 1, "sha256": "0" * 64}])
    for members in (
        [(link, b"")],
        [(file, b"x"), (tarfile.TarInfo(LIST), stated)],
        [(file, b"x"), (tarfile.TarInfo(LIST), b"{}")],
        [(file, b"x")],
        [(tarfile.TarInfo(LIST), b"[]"), (file, b"x")],
    ):
        sealed(tmp_path / "archive", pair, *members)
        with pytest.raises(IntegrityError):
            read(tmp_path / "archive", pair)
    (tmp_path / "cut").write_bytes((tmp_path / "archive").read_bytes()[:200])
    with pytest.raises(Exception, match=r"key does not decrypt|cannot be read|no list"):
        read(tmp_path / "cut", pair)


@pytest.mark.security_case("A backup's medium changes between verifying and decrypting.", "Refused.")
def test_an_archive_is_the_one_that_was_signed(pair: Pair, tmp_path: Path) -> None:
    for name in ("signed", "other"):
        with backup_archive.written(tmp_path / name, pair.public) as opened:
            (tmp_path / "file").write_text(name)
            opened.add("keys/pipeline.key", tmp_path / "file")
    with pytest.raises(IntegrityError, match="SHA-256 is not the signed one"):
        backup_archive.read(
            tmp_path / "other", file_sha256(tmp_path / "signed"), pair.private, lambda listed, blocks: None
        )
