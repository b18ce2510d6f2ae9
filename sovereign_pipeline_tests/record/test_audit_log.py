"""The audit log: an entry that is missing, changed or out of place is named, whoever did it."""

import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.base.errors import InputError, IntegrityError
from sovereign_pipeline.base.files import canonical_json, digest_of
from sovereign_pipeline.record.audit_log import (
    FIRST,
    Checkpoint,
    Parsed,
    append,
    assert_contains,
    checkpoint_of,
    entries,
    exact_bytes,
    export,
    verify,
)
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.keys import generate
from sovereign_pipeline.record.statements import APPROVAL, Statement, Subject, sign_statement
from sovereign_pipeline_tests.registry.bench import Bench

Log = list[Parsed]


def with_entries(registry: Registry, count: int) -> Log:
    for number in range(count):
        with registry.writing() as session:
            append(session, f"officer-{number % 2}", "lamp lit", {"lamp": number, "digest": "d" * 64})
    return entries(registry)


def test_each_entry_is_bound_to_the_one_before_it_by_a_hash_that_anyone_can_compute(registry: Registry) -> None:
    log = with_entries(registry, 3)
    last = verify(map(exact_bytes, log))
    assert (last.sequence, last.hash) == (3, log[2].hash)
    assert [entry.previous for entry in log] == [FIRST, log[0].hash, log[1].hash]
    by_hand = {name: getattr(log[1], name) for name in ("sequence", "actor", "action", "subjects", "previous")}
    assert digest_of({**by_hand, "at": log[1].at.isoformat(timespec="microseconds")}) == log[1].hash


@pytest.mark.parametrize(
    "stated",
    [{"reason": "x" * 2_001}, {"said": {"by": ["short", "é" * 2_001]}}, {"x" * 2_001: 1}, {"a": ("x" * 2_001,)}],
)
def test_a_text_that_is_too_long_is_neither_entered_nor_signed(registry: Registry, stated: dict[str, Any]) -> None:
    signed: list[bytes] = []

    def sign(content: bytes) -> bytes:
        signed.append(content)
        return b"x"

    with pytest.raises(InputError), registry.writing() as session:
        append(session, "officer-1", "lamp lit", stated, sign)
    assert entries(registry) == [] and not signed
    about = {"decision": "approve", **stated}
    with pytest.raises(InputError):
        sign_statement(generate(), Statement((Subject("request.sigstore.json", "0" * 64),), APPROVAL, about))
    with registry.writing() as session:
        append(session, "officer-1", "lamp lit", {"reason": "x" * 2_000})
    assert len(entries(registry)) == 1


def lose(log: Log) -> Log:
    return log[:2] + log[3:]


def swap(log: Log) -> Log:
    return [log[0], log[2], log[1], *log[3:]]


def renumber(log: Log) -> Log:
    """The third is left out and the rest moves up."""
    return [*log[:2], *(entry._replace(sequence=entry.sequence - 1) for entry in log[3:])]


def rewrite(log: Log) -> Log:
    return [*log[:2], log[2]._replace(subjects={"lamp": 99}), *log[3:]]


def rewrite_with_hash(log: Log) -> Log:
    return [*log[:2], log[2]._replace(actor="nobody", hash="e" * 64), *log[3:]]


def backdate(log: Log) -> Log:
    return [*log[:2], log[2]._replace(at=log[0].at), *log[3:]]


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lose, "entry 3 is missing"),
        (swap, "entry 2 is missing"),
        (renumber, "entry 3 does not follow"),
        (rewrite, "entry 3 was changed"),
        (rewrite_with_hash, "entry 3 was changed"),
        (backdate, "entry 3 was changed"),
    ],
)
def test_whatever_is_done_to_the_log_is_named(bench: Bench, damage: Callable[[Log], Log], said: str) -> None:
    log = with_entries(bench.open_registry(), 5)
    with pytest.raises(IntegrityError, match=said):
        verify(map(exact_bytes, damage(log)))


def test_what_was_cut_off_at_the_end_shows_against_an_export(bench: Bench, tmp_path: Path) -> None:
    registry = bench.open_registry()
    log = with_entries(registry, 4)
    file = tmp_path / "audit.jsonl"
    assert export(registry, file) == verify(map(exact_bytes, log))
    assert [json.loads(line)["sequence"] for line in file.read_text().splitlines()] == [1, 2, 3, 4]
    kept = checkpoint_of(file)
    with_entries(registry, 2)
    with registry.reading() as session:
        assert_contains(session, kept)
        for other in (Checkpoint(7, kept.hash), Checkpoint(4, log[2].hash)):
            with pytest.raises(IntegrityError):
                assert_contains(session, other)
    with pytest.raises(InputError):
        checkpoint_of(tmp_path / "absent.jsonl")
    for content in ("[1]\n", "", '{"sequence":1}\n', "[" * 10_000):
        file.write_text(content)
        with pytest.raises(InputError):
            checkpoint_of(file)


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("content", "entry 2 was changed"),
        ("content and hash", "entry 3 does not follow the previous entry"),
        ("lost", "entry 2 is missing"),
    ],
)
def test_an_export_that_was_changed_is_no_witness(bench: Bench, tmp_path: Path, fault: str, message: str) -> None:
    registry = bench.open_registry()
    with_entries(registry, 4)
    file = tmp_path / "audit.jsonl"
    export(registry, file)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    if fault == "lost":
        del rows[1]
    else:
        rows[1]["actor"] = "nobody"
    if fault == "content and hash":
        rows[1]["hash"] = digest_of({name: value for name, value in rows[1].items() if name != "hash"})
    file.write_bytes(b"".join(canonical_json(row) + b"\n" for row in rows))
    with pytest.raises(IntegrityError, match=f"audit.jsonl: {message}"):
        checkpoint_of(file)


def test_an_entry_is_undone_with_what_it_tells_of(registry: Registry) -> None:
    with pytest.raises(ZeroDivisionError), registry.writing() as session:
        append(session, "officer", "lamp lit", {})
        raise ZeroDivisionError
    assert entries(registry) == []


def test_entries_from_many_at_once_make_one_chain(registry: Registry) -> None:
    threads = [threading.Thread(target=with_entries, args=(registry, 5)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert verify(map(exact_bytes, entries(registry))).sequence == 20
