"""Damaged files come back from a backup, on record; purged weights do not."""

from pathlib import Path

import pytest

from sovereign_pipeline.backup import repairing
from sovereign_pipeline.backup.repairing import REPAIRED, repair
from sovereign_pipeline.base.errors import InputError, IntegrityError, NotFoundError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.corpus.stages import DOCUMENTS, SOURCES
from sovereign_pipeline.record.audit_log import entries
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline_tests.backup.conftest import Office

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
    assert len(entries(open_registry(office.settings))) == last.sequence


@pytest.mark.security_case("A repair would bring back weights that were purged.", "They stay gone.")
def test_what_was_purged_stays_gone(office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    verdict = next(office.settings.artifacts.glob(f"*/{VERDICT}"))
    office.take(tmp_path / "backup")
    verdict.unlink()
    monkeypatch.setattr(repairing, "purged_files", lambda settings, digest: frozenset({VERDICT}))
    assert repaired(office, tmp_path / "backup", verdict.parent.name) == []
    assert not verdict.exists()


def test_an_artifact_that_the_backup_does_not_hold_is_refused(office: Office, tmp_path: Path) -> None:
    office.take(tmp_path / "backup")
    with pytest.raises(NotFoundError, match="does not hold"):
        repaired(office, tmp_path / "backup", "0" * 64)
    for digest in ("../../etc", office.refs[0].digest[:12]):
        with pytest.raises(InputError, match="no digest"):
            repaired(office, tmp_path / "backup", digest)
