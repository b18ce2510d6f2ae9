"""The audit log: an entry that is missing, changed or out of place is named, whoever did it."""

import json
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


def with_entries(registry: Registry, count: int) -> list[Parsed]:
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


def test_what_was_cut_off_shows_against_an_export_unless_that_was_changed(bench: Bench, tmp_path: Path) -> None:
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
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    rows[1]["actor"] = "nobody"
    rows[1]["hash"] = digest_of({name: value for name, value in rows[1].items() if name != "hash"})
    file.write_bytes(b"".join(canonical_json(row) + b"\n" for row in rows))
    with pytest.raises(IntegrityError, match="entry 3 does not follow the previous entry"):
        checkpoint_of(file)
    with pytest.raises(InputError):
        checkpoint_of(tmp_path / "absent.jsonl")
    for content in ("[1]\n", "", '{"sequence":1}\n', "[" * 10_000):
        file.write_text(content)
        with pytest.raises(InputError):
            checkpoint_of(file)
