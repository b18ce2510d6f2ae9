"""An auditor's copy: verified from the first root's SHA-256 alone, elsewhere, and no byte of it can be another."""

import dataclasses
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import text
from typer.testing import CliRunner

from sovereign_pipeline.base.errors import InputError, IntegrityError, SovereignError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import silent
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.record import replay
from sovereign_pipeline.record.checkpoints import new_log
from sovereign_pipeline.record.database import open_registry, registry_read_only
from sovereign_pipeline.record.keys import generate, read_public_file
from sovereign_pipeline.record.notes import parse_verifier
from sovereign_pipeline.record.sealing import open_store
from sovereign_pipeline.record.tables import Adapter, stored_tables
from sovereign_pipeline.record.trust_changes import demonstration_trust, revoke, rotate_key
from sovereign_pipeline.record.witnesses import assert_log_of
from sovereign_pipeline.release.acts import add_issue
from sovereign_pipeline.release.auditing import AuditReport, audit_adapter
from sovereign_pipeline.release.cadence import record_review
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.release.conftest import Office

ADAPTER = "lamps-1.0.0"


@dataclasses.dataclass(frozen=True)
class Copy:
    """What an auditor was given, at another path."""

    settings: Settings
    root_sha256: str

    def verify(self, root_sha256: str | None = None) -> AuditReport:
        replay.forget_all()
        with registry_read_only(self.settings) as registry:
            store = open_store(self.settings, self.settings.corpus, registry)
            return audit_adapter(registry, store, self.settings, ADAPTER, root_sha256 or self.root_sha256, silent)


def _busy(office: Office) -> None:
    """An adapter in production and one that was rejected, an open request, an issue, a review."""

    def act(first: Adapter) -> None:
        office.to_production(first)
        second = office.adapter()
        office.decide(office.ask("approve", second), "omar", "reject")
        standing = office.ask("approve", second)
        office.decide(standing, "omar")
        office.decide(standing, "omar", "withdraw")
        add_issue(office.registry, first.id, "It takes candles for lamps.", office.officers["layla"])
        record_review(office.registry, first.id, "It stays.", office.officers["layla"], second.registered_at)

    office.bench.register("busy", act)


@pytest.fixture
def copy(office: Office, tmp_path: Path) -> Copy:
    """Home and trust root, without the keys, the vault, the corpus, the sources and the secrets of reviews."""
    _busy(office)
    office.registry.engine.dispose()
    settings, elsewhere = office.bench.settings, tmp_path / "elsewhere"
    shutil.copytree(settings.home, elsewhere / "home")
    shutil.copytree(settings.data / "trust", elsewhere / "data" / "trust")
    there = Settings(home=elsewhere / "home", data=elsewhere / "data")
    connection = sqlite3.connect(there.home / "registry.db")  # the last to close it takes its write-ahead log away
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    assert not (there.home / "registry.db-wal").exists()
    return Copy(there, office.trust.root_sha256)


def _files(root: Path) -> dict[Path, tuple[int, int]]:
    return {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in sorted(root.rglob("*"))}


def test_a_copy_is_verified_from_the_first_roots_sha256_alone(copy: Copy) -> None:
    before = _files(copy.settings.home.parent)

    report = copy.verify()

    assert _files(copy.settings.home.parent) == before, "nothing was written"
    assert (report.requests, report.transitions) == (5, 3)
    assert "verified" in report.lineage.outcomes


def test_what_lies_in_place_is_verified_in_the_same_way(office: Office) -> None:
    _busy(office)  # whose registry is open, with a write-ahead log beside it

    report = Copy(office.bench.settings, office.trust.root_sha256).verify()

    assert report.transitions == 3


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes into a directory that is closed to writing")
def test_a_directory_that_cannot_be_written_to_is_verified(copy: Copy) -> None:
    for path in [copy.settings.home, *copy.settings.home.rglob("*")]:
        path.chmod(path.stat().st_mode & ~0o222)
    try:
        assert copy.verify().transitions == 3
    finally:
        for path in [copy.settings.home, *copy.settings.home.rglob("*")]:
            path.chmod(path.stat().st_mode | 0o200)


def test_a_copy_with_its_write_ahead_log_is_read_with_it(office: Office, tmp_path: Path) -> None:
    _busy(office)
    there = replace(office.bench.settings, home=tmp_path / "copy")
    shutil.copytree(office.bench.settings.home, there.home, ignore=shutil.ignore_patterns("*-shm"))
    there = replace(there, registry_url=f"sqlite:///{there.home / 'registry.db'}")
    assert (there.home / "registry.db-wal").stat().st_size > 0

    assert Copy(there, office.trust.root_sha256).verify().transitions == 3


def test_another_sha256_is_refused(copy: Copy) -> None:
    with pytest.raises(IntegrityError, match="the first root has the SHA-256"):
        copy.verify("0" * 64)


def test_a_log_whose_key_is_revoked_is_refused(office: Office) -> None:
    office.adapter()
    rotate_key(office.bench.settings.data / "trust", "log", generate("ed25519").public_pem, 0, office.roots[:2])
    with pytest.raises(IntegrityError, match="key of the ledger is revoked from index 0"):
        Copy(office.bench.settings, office.trust.root_sha256).verify()


def test_a_registry_of_another_format_is_refused_by_an_auditor(copy: Copy) -> None:
    engine = open_registry(copy.settings).engine
    with engine.begin() as connection:
        connection.execute(text("UPDATE registry_format SET version = 0"))
    engine.dispose()
    with pytest.raises(InputError, match="has format 0"):
        copy.verify()


def test_the_command_ends_0_and_ends_1_for_a_changed_byte(copy: Copy, monkeypatch: pytest.MonkeyPatch) -> None:
    for variable, path in (("HOME", copy.settings.home), ("DATA", copy.settings.data)):
        monkeypatch.setenv(f"SOVEREIGN_{variable}", str(path))
    command = ["adapters", "verify", ADAPTER, "--trust-root", copy.root_sha256]

    good = CliRunner().invoke(app, command)
    assert good.exit_code == 0, good.output
    assert "5 requests and 3 transitions: all signatures valid" in good.output

    targets = copy.settings.data / "trust" / "targets.json"
    targets.write_text(targets.read_text().replace("Omar", "Omer"))
    bad = CliRunner().invoke(app, command)
    assert (bad.exit_code, isinstance(bad.exception, IntegrityError)) == (1, True)
    assert "targets.json" in str(bad.exception)


@pytest.mark.security_case(
    "The key of an officer who approved is revoked from an entry before the approval",
    "`adapters verify` exits with status 1, also without `--trust-root`",
)
def test_an_approval_by_a_revoked_key_does_not_verify(office: Office, monkeypatch: pytest.MonkeyPatch) -> None:
    _busy(office)
    settings = office.bench.settings
    for name, value in settings.to_environment().items():
        monkeypatch.setenv(name, value)
    for first_revoked, status in ((10**6, 0), (1, 1)):
        revoke(settings.data / "trust", office.officers["omar"].keyid, first_revoked, office.roots[:2])
        replay.forget_all()
        assert CliRunner().invoke(app, ["adapters", "verify", ADAPTER]).exit_code == status


def test_the_logs_key_is_made_printed_and_taken_into_a_trust_root(
    institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch
) -> None:
    institution.write()
    for variable, name in (("HOME", "home"), ("DATA", "data")):
        monkeypatch.setenv(f"SOVEREIGN_{variable}", str(institution.root / name))
    file = institution.root / "log.pub"
    made, again = (CliRunner().invoke(app, ["audit", "key", *options]) for options in (["--file", str(file)], []))
    assert (made.exit_code, again.exit_code) == (0, 0)
    assert file.read_text() == again.stdout

    trust = demonstration_trust(
        institution.root / "trust", institution.root / "keys", {"log": [read_public_file(file)]}
    )

    log = parse_verifier(again.stdout)
    assert_log_of(trust, log, 1)
    with pytest.raises(IntegrityError, match="does not give the ledger's key"):
        assert_log_of(trust, new_log().verifier, 1)


IRRELEVANT = (".index", ".current", ".lock", "lock")
"""Names, in the copy, of what no verification reads: `test_caches_are_never_read` removes them all."""


def _is_cache(path: Path, root: Path) -> bool:
    return any(part in IRRELEVANT for part in path.relative_to(root).parts)


def _proofs(copy: Copy) -> list[Path]:
    """Every file of the trust root, the ledger, and all that the adapter was made from, but caches."""
    made_from = [Path(each.path) for each in copy.verify().lineage.checked]
    roots = (copy.settings.data / "trust", copy.settings.ledger, copy.settings.home / "policy", *made_from)
    found = {path for root in roots for path in root.rglob("*") if path.is_file() and not _is_cache(path, root)}
    return sorted(found)


def test_caches_are_never_read(copy: Copy) -> None:
    home = copy.settings.home
    for path in sorted(home.rglob("*"), reverse=True):
        if _is_cache(path, home) and path.exists():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert copy.verify().transitions == 3


def _refusal(copy: Copy) -> SovereignError | None:
    try:
        copy.verify()
    except SovereignError as error:
        return error
    return None


Change = tuple[str, Callable[[], object], Callable[[], object]]
"""What is changed, what changes it, and what takes that back."""


def _undetected(copy: Copy, changes: Iterator[Change]) -> list[str]:
    """Make each change, verify, and take it back. Returns those that were not refused with exit status 1."""
    assert _refusal(copy) is None
    missed, count = [], 0
    for what, make, undo in changes:
        make()
        error = _refusal(copy)
        undo()
        count += 1
        if error is None or error.exit_status != 1:
            missed.append(f"{what}: {error.message if error is not None else 'not noticed'}")
    assert count >= 40, "changes were made"
    assert _refusal(copy) is None, "every change was taken back"
    return missed


@pytest.mark.slow
def test_one_changed_byte_in_any_file_is_refused(copy: Copy) -> None:
    artifacts = copy.settings.artifacts

    def changes() -> Iterator[Change]:
        for path in _proofs(copy):
            whole = path.read_bytes()
            places = {0, len(whole) // 2, len(whole) - 1} if path.parent.parent != artifacts else {len(whole) // 2}
            for place in sorted(places) if whole else ():
                changed = whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :]
                yield f"{path} byte {place}", lambda: path.write_bytes(changed), lambda: path.write_bytes(whole)  # noqa: B023

    assert _undetected(copy, changes()) == []


@pytest.mark.slow
def test_a_file_that_is_gone_or_put_in_is_refused(copy: Copy) -> None:
    def changes() -> Iterator[Change]:
        for path in _proofs(copy):
            whole = path.read_bytes()
            yield f"{path} gone", path.unlink, lambda: path.write_bytes(whole)  # noqa: B023
        unread = (
            copy.settings.data / "trust",
            copy.settings.ledger,
        )
        for directory in sorted({path.parent for path in _proofs(copy)} - {copy.settings.home / "policy"}):
            new = directory / ("9.root.json" if directory in unread else "another")
            if directory == copy.settings.ledger:
                new = directory / "witnessed" / "9.note"
                new.parent.mkdir(exist_ok=True)
            yield f"{new} put in", lambda: new.write_bytes(b"x"), new.unlink  # noqa: B023

    assert _undetected(copy, changes()) == []


HELD = [table for table in stored_tables() if table.name != "sealed"]  # changing an index has no effect


class _Owner:
    """Whoever owns the database: changes what there is."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.whole = path.read_bytes()

    def run(self, statement: str, *values: object) -> None:
        with sqlite3.connect(self.path) as connection:
            connection.execute(statement, values)
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        connection.close()

    def restore(self) -> None:
        for suffix in ("-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        self.path.write_bytes(self.whole)

    def rows(self, table: str) -> list[dict[str, object]]:
        connection = sqlite3.connect(self.path)
        connection.row_factory = sqlite3.Row
        found = [dict(row) for row in connection.execute(f"SELECT * FROM {table}")]
        connection.close()
        self.restore()
        return found


def _other(value: object) -> object:
    """Another value of the same form."""
    match value:
        case None:
            return "1"
        case int():
            return value + 1000
        case bytes():
            return value[:-1] + bytes([value[-1] ^ 1])
        case str() if value.startswith(("{", "[")):
            return '{"other": 1}'
        case str() if value[-1:].isdigit():
            return value[:-1] + str((int(value[-1]) + 5) % 10)
        case _:
            return f"{value}x"


@pytest.mark.slow
@pytest.mark.parametrize("garbage", [False, True])
def test_one_changed_column_of_any_row_is_refused(copy: Copy, *, garbage: bool) -> None:
    owner = _Owner(copy.settings.home / "registry.db")

    def changes() -> Iterator[Change]:
        for table in HELD:
            keys = [column.name for column in table.primary_key]
            for row in owner.rows(table.name)[-8:]:
                where = " AND ".join(f"{key} = ?" for key in keys)
                for column in row:
                    if garbage and isinstance(row[column], int) and table.name == "entry":
                        continue  # SQLite itself refuses it
                    if column == "head" and row["sequence"] != owner.rows(table.name)[-1]["sequence"]:
                        continue  # only that of the newest entry is ever read
                    statement = f"UPDATE {table.name} SET {column} = ? WHERE {where}"
                    value = b"\xff" if garbage else _other(row[column])
                    values = (value, *(row[key] for key in keys))
                    yield f"{table.name}.{column} = {value!r}", lambda: owner.run(statement, *values), owner.restore  # noqa: B023

    assert _undetected(copy, changes()) == []


@pytest.mark.slow
def test_a_row_that_is_gone_or_put_in_is_refused(copy: Copy) -> None:
    owner = _Owner(copy.settings.home / "registry.db")

    def changes() -> Iterator[Change]:
        for table in HELD:
            keys = [column.name for column in table.primary_key]
            for row in owner.rows(table.name):
                where = " AND ".join(f"{key} = ?" for key in keys)
                key = [row[each] for each in keys]
                gone = f"DELETE FROM {table.name} WHERE {where}"
                yield f"{table.name} {key} gone", lambda: owner.run(gone, *key), owner.restore  # noqa: B023
            for row in owner.rows(table.name)[-1:] if table.name != "blob" else ():  # what nothing names is never read
                unique = {column.name for column in table.columns if column.primary_key}
                new = {name: _other(value) if name in unique else value for name, value in row.items()}
                more = f"INSERT INTO {table.name} ({', '.join(new)}) VALUES ({', '.join('?' * len(new))})"
                yield f"{table.name} put in", lambda: owner.run(more, *new.values()), owner.restore  # noqa: B023

    assert _undetected(copy, changes()) == []
