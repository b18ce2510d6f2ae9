"""What a gateway has accepted of trust roots and flags is never accepted in an older form again."""

import datetime
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.ops.backup import Snapshot, take
from sovereign_pipeline.ops.backup_archive import Archive
from sovereign_pipeline.ops.restore import restore
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.record.stage import Progress
from sovereign_pipeline.record.trust_root import Trust
from sovereign_pipeline.serving.deployment import Sources
from sovereign_pipeline.serving.high_water_marks import FlagMark, HighWaterMarks
from sovereign_pipeline.serving.rollout.in_force import Flags
from sovereign_pipeline.serving.rollout.publishing import follow
from sovereign_pipeline.workplace import open_workplace
from sovereign_pipeline_tests.ops.conftest import Pair
from sovereign_pipeline_tests.ops.conftest import pair as pair
from sovereign_pipeline_tests.serving.gateway.scripted import LINE
from sovereign_pipeline_tests.serving.rollout.conftest import Desk

TRUST = Trust("a" * 64, 3, 5, False, datetime.datetime.max.replace(tzinfo=datetime.UTC), {})
OTHER = replace(TRUST, root_sha256="b" * 64, root_version=1, targets_version=1)
MARK = FlagMark(sequence=2, sha256="c" * 64)


@pytest.fixture
def marks(tmp_path: Path) -> HighWaterMarks:
    marks = HighWaterMarks(tmp_path / "marks.json")
    marks.accept_trust(TRUST, is_on_record=False)
    return marks


def test_an_older_trust_root_is_rejected(marks: HighWaterMarks, tmp_path: Path) -> None:
    olders: list[dict[str, Any]] = [
        {"root_version": 2},
        {"targets_version": 4},
        {"root_version": 4, "targets_version": 4},
    ]
    another = HighWaterMarks(tmp_path / "marks.json")  # of another gateway of the directory
    for older in (replace(TRUST, **each) for each in olders):
        for is_on_record in (False, True):
            with pytest.raises(IntegrityError):
                another.accept_trust(older, is_on_record=is_on_record)
        with pytest.raises(IntegrityError):
            marks.accept_flag("lamps", MARK, older)
        assert another.flag("lamps") is None


def test_only_the_ledger_changes_the_root_and_flags_follow_it(marks: HighWaterMarks) -> None:
    with pytest.raises(IntegrityError):
        marks.accept_trust(OTHER, is_on_record=False)
    with pytest.raises(IntegrityError):
        marks.accept_flag("lamps", MARK, OTHER)
    marks.accept_trust(OTHER, is_on_record=True)
    marks.accept_flag("lamps", MARK, OTHER)
    with pytest.raises(IntegrityError):
        marks.accept_flag("lamps", MARK, TRUST)
    assert marks.flag("lamps") == MARK and marks.flag("buoys") is None


def test_what_is_older_by_its_number_or_by_another_content_of_it(marks: HighWaterMarks, tmp_path: Path) -> None:
    for sequence, sha256, is_older in ((1, "c", True), (2, "d", True), (2, "c", False), (3, "d", False)):
        assert FlagMark(sequence=sequence, sha256=sha256 * 64).is_older_than(MARK) == is_older
    for entries in (3, 7, 5):
        marks.accept_entries(entries, f"{entries}" * 64)
    assert HighWaterMarks(tmp_path / "marks.json").ledger == (7, "7" * 64)


def test_a_damaged_file_accepts_nothing(marks: HighWaterMarks, tmp_path: Path) -> None:
    (tmp_path / "marks.json").write_text("{}x")
    with pytest.raises(IntegrityError):
        marks.accept_trust(TRUST, is_on_record=True)
    with pytest.raises(IntegrityError):
        marks.flag("lamps")


@pytest.mark.security_case(
    "A backup is taken while adapters are promoted and a gateway runs, and is restored",
    "the gateway starts without removing its protection against older states",
)
def test_marks_and_flags_in_a_backup_are_not_newer_than_its_registry(
    desk_of_two: Desk, pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, (first, second), write = desk_of_two.settings, desk_of_two.adapters, Snapshot.write

    def run_gateway() -> None:
        Sources(settings).find()
        assert Flags(settings).problems() == {}

    def write_after_a_change(snapshot: Snapshot, archive: Archive, progress: Progress) -> None:
        desk_of_two.office.move("roll_back", first)
        desk_of_two.follow()
        run_gateway()
        write(snapshot, archive, progress)

    run_gateway()
    monkeypatch.setattr(Snapshot, "write", write_after_a_change)
    take(settings, tmp_path / "backup", pair.public, print)
    restored = Settings(home=tmp_path / "other" / "home", data=settings.data)
    restore(restored, tmp_path / "backup", pair.private, "the disk died", print)
    assert Sources(restored).find().entries > 0
    flag, is_new = follow(open_registry(restored), open_workplace(restored, LINE))
    assert (flag.production, is_new) == (second.id, False)
    assert Flags(restored).problems() == {}
