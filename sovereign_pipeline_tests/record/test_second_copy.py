"""The second copy has an entry before its act is done; without it nothing is done; what failed is marked as void."""

import errno
import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.record import checkpoints
from sovereign_pipeline.record.audit_log import entries
from sovereign_pipeline.record.database import Registry, open_registry
from sovereign_pipeline.record.in_force import COPY_FILLED
from sovereign_pipeline.record.verifying import verify_registry
from sovereign_pipeline_tests.record.lamps import cut_to, die, exact_bytes, kept, light
from sovereign_pipeline_tests.registry.bench import Bench


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    file = tmp_path / "media" / "ledger.jsonl"
    file.parent.mkdir()
    file.touch()
    return file


def with_copy(bench: Bench, copy: Path) -> Registry:
    return open_registry(replace(bench.settings, ledger_copy=copy))


@pytest.fixture
def registry(bench: Bench, copy: Path) -> Registry:
    return with_copy(bench, copy)


def entries_in(copy: Path) -> list[bytes]:
    """Those that are not void."""
    lines = copy.read_bytes().split(b"\n")
    void = {json.loads(each)["void"] for each in lines if each.startswith(b'{"void"')}
    return [each for each in lines if each.startswith(b'{"action"') and hashlib.sha256(each).hexdigest() not in void]


def test_every_entry_and_checkpoint_is_in_it(registry: Registry, copy: Path) -> None:
    light(registry, 1, 2)
    assert entries_in(copy) == exact_bytes(registry)
    last = json.loads(copy.read_bytes().splitlines()[-1])["checkpoint"]
    assert last == (registry.settings.ledger / "checkpoint").read_text()


def test_it_has_the_entry_before_the_act_is_done(database: str, registry: Registry, copy: Path) -> None:
    seen: list[int] = []
    event.listen(registry.engine, "commit", lambda connection: seen.append(len(entries_in(copy))))
    light(registry, 1)
    assert seen[-1] == 1


def test_without_it_nothing_is_done(registry: Registry, copy: Path) -> None:
    light(registry, 1)
    copy.rename(copy.with_suffix(".away"))
    with pytest.raises(IntegrityError, match=r"ledger\.jsonl: the ledger's second copy is missing"):
        light(registry, 2)
    assert len(exact_bytes(registry)) == kept(registry.settings).size == 1
    copy.with_suffix(".away").rename(copy)
    light(registry, 2)
    assert entries_in(copy) == exact_bytes(registry)


def test_a_full_medium_stops_the_act(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(handle: int, content: bytes) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    light(registry, 1)
    before = exact_bytes(registry)
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", write)
        with pytest.raises(IntegrityError, match=r"cannot be written.*No space left"):
            light(registry, 1)
    assert exact_bytes(registry) == before != []


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda copy: copy.symlink_to("/dev/zero")])
def test_what_is_no_file_is_refused_at_once(registry: Registry, copy: Path, make: Callable[[Path], None]) -> None:
    copy.unlink()
    make(copy)
    for read in (open_registry, lambda settings: verify_registry(registry)):
        with pytest.raises(IntegrityError):
            read(registry.settings)
    with pytest.raises(IntegrityError):
        light(registry, 1)


@pytest.mark.security_case(
    "Another program writes very many lines to the second copy",
    "Every command ends with a message within seconds",
)
@pytest.mark.parametrize(
    "lines",
    [
        b"\n".join(b"%d" % each for each in range(2_000)),
        b'{"void":"%s"}\n' % (64 * b"0") * 300_000,
        b"\n" * (1 << 25),
        b"x" * (1 << 25),
    ],
    ids=["junk", "marks", "empty lines", "one long line"],
)
def test_a_flooded_copy_slows_no_command(registry: Registry, copy: Path, lines: bytes) -> None:
    light(registry, 1)
    good = copy.read_bytes()
    copy.write_bytes(good + lines)
    with pytest.raises(IntegrityError):
        open_registry(registry.settings)
    copy.write_bytes(good)
    light(open_registry(registry.settings), 2)


def test_an_entry_whose_commit_failed_is_marked_by_the_next(registry: Registry, copy: Path) -> None:
    light(registry, 1)

    def fail(connection: Any) -> None:
        if len(entries_in(copy)) == 2:
            raise ZeroDivisionError

    event.listen(registry.engine, "commit", fail)
    with pytest.raises(ZeroDivisionError):
        light(registry, 2)
    event.remove(registry.engine, "commit", fail)
    assert (len(exact_bytes(registry)), len(entries_in(copy))) == (1, 2)
    light(open_registry(registry.settings), 3)
    assert entries_in(copy) == exact_bytes(registry)
    assert copy.read_bytes().count(b'{"void"') == 1


def test_a_line_that_was_cut_short_spoils_itself_alone(registry: Registry, copy: Path) -> None:
    light(registry, 1)
    with copy.open("ab") as stream:
        stream.write(b'{"action":"lamp 2 l')
    light(registry, 2, 3)
    assert entries_in(copy) == exact_bytes(registry)
    assert copy.read_bytes().count(b'{"void"') == 1


def test_what_it_lacks_is_added_first(bench: Bench, copy: Path) -> None:
    light(bench.open_registry(), 1, 2)
    registry = with_copy(bench, copy)
    light(registry, 3)
    assert entries_in(copy) == exact_bytes(registry)
    light(bench.open_registry(), 4, 5)
    light(registry, 6)
    assert entries_in(copy) == exact_bytes(registry)
    assert filled(registry) == [{"first": 1, "last": 2}, {"first": 5, "last": 6}]


@pytest.mark.security_case("The second copy is cut or emptied", "the next act writes it again, and an entry says so")
def test_an_entry_tells_for_good_that_the_copy_was_cut(registry: Registry, copy: Path) -> None:
    light(registry, 1, 2, 3)
    whole = copy.read_bytes()
    light(registry, 4)
    assert filled(registry) == []
    for content, missing in ((whole, {"first": 4, "last": 4}), (b"", {"first": 1, "last": 6})):
        copy.write_bytes(content)
        light(registry, 5)
        assert filled(registry)[-1] == missing
        assert entries_in(copy) == exact_bytes(registry)
        verify_registry(registry)


def filled(registry: Registry) -> list[dict[str, Any]]:
    """The entries that tell what the copy lacked."""
    return [each.subjects for each in entries(registry) if each.action == COPY_FILLED]


def test_a_long_ledger_is_copied_although_a_first_try_is_cut_off(
    bench: Bench, copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoints, "LARGEST_LOOK", checkpoints.FIRST_LOOK)
    monkeypatch.setattr(checkpoints, "BYTES_A_CHECKPOINT", checkpoints.FIRST_LOOK // 4)
    light(bench.open_registry(), *range(60))
    registry = with_copy(bench, copy)
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "confirm", die)
        with pytest.raises(KeyboardInterrupt):
            light(registry, 60)
    copy.write_bytes(copy.read_bytes()[:-20_000])
    light(open_registry(registry.settings), 61)
    assert entries_in(copy) == exact_bytes(registry)


def test_an_older_registry_is_refused_with_what_was_done_since(registry: Registry, copy: Path) -> None:
    light(registry, 1)
    home = registry.settings.ledger / "checkpoint"
    before = home.read_bytes()
    light(registry, 2, 3)
    cut_to(registry, 1)
    home.write_bytes(before)  # the whole home is an older copy; only the other medium knows
    with pytest.raises(IntegrityError, match=r"missing: entry 2 \(lamp 2 lit\), entry 3 \(lamp 3 lit\)"):
        open_registry(registry.settings)
    with pytest.raises(IntegrityError, match="older than its last checkpoint"):
        light(registry, 4)


@pytest.mark.security_case(
    "Registry and home are put back, and marks that nobody signed and an older checkpoint are appended to the copy",
    "The entries that a checkpoint covers stay: the registry is refused, and `audit verify` ends 1",
)
@pytest.mark.parametrize("repeats", [1, 2_000])
def test_what_a_checkpoint_covers_is_not_talked_away(registry: Registry, copy: Path, repeats: int) -> None:
    light(registry, 1)
    home = registry.settings.ledger / "checkpoint"
    before, older = home.read_bytes(), copy.read_bytes()
    light(registry, 2)
    newer = [each for each in copy.read_bytes().removeprefix(older).splitlines() if each.startswith(b'{"action"')]
    cut_to(registry, 1)
    home.write_bytes(before)
    marks = b"".join(b'{"void":"%s"}\n' % hashlib.sha256(each).hexdigest().encode() for each in newer)
    with copy.open("ab") as stream:
        stream.write(marks + older * repeats)
    with pytest.raises(IntegrityError):
        verify_registry(open_registry(registry.settings))
    if repeats == 1:
        with pytest.raises(IntegrityError):
            open_registry(registry.settings)
