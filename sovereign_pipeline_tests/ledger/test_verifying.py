"""The whole ledger computed again: whatever is done to bytes, columns, tree or second copy is named."""

import datetime
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import InputError, IntegrityError, NotFoundError
from sovereign_pipeline.base.files import digest_of
from sovereign_pipeline.record import audit_log, checkpoints, merkle, notes, tree
from sovereign_pipeline.record.database import Registry, open_registry
from sovereign_pipeline.record.tables import AuditEntry, LedgerEntry, LedgerNode
from sovereign_pipeline.record.verifying import verify_registry
from sovereign_pipeline_tests.ledger.lamps import cut_to, light, light_past_the_program
from sovereign_pipeline_tests.ledger.owner import without_triggers
from sovereign_pipeline_tests.registry.bench import Bench

Attack = Callable[[Session], None]


@pytest.fixture
def registry(bench: Bench, database: str) -> Registry:
    registry = bench.open_registry()
    light(registry, *range(1, 8))
    return registry


def as_owner(registry: Registry, attack: Attack) -> None:
    with without_triggers(registry.engine), Session(registry.engine) as session:
        attack(session)
        session.commit()


def bit_in_bytes(session: Session) -> None:
    entry = session.get_one(LedgerEntry, 3)
    entry.data = bytes([*entry.data[:-2], entry.data[-2] ^ 1, *entry.data[-1:]])


def bit_in_tree(session: Session) -> None:
    node = session.get_one(LedgerNode, (1, 1))
    node.hash = bytes([node.hash[0] ^ 128, *node.hash[1:]])


def column(session: Session) -> None:
    session.get_one(AuditEntry, 3).actor = "nobody"


def back_dated(session: Session) -> None:
    session.get_one(AuditEntry, 3).at -= datetime.timedelta(days=30)


def bytes_and_column(session: Session) -> None:
    entry = session.get_one(AuditEntry, 3)
    entry.actor = "nobody"
    session.get_one(LedgerEntry, 3).data = audit_log.exact_bytes(entry)


def removed(session: Session) -> None:
    session.execute(text("DELETE FROM audit_entry WHERE sequence = 3"))


def bytes_removed(session: Session) -> None:
    session.execute(text("DELETE FROM ledger_entry WHERE sequence = 3"))


def node_removed(session: Session) -> None:
    session.execute(text("DELETE FROM ledger_node WHERE level = 0 AND position = 2"))


def node_added(session: Session) -> None:
    session.add(LedgerNode(level=0, position=7, hash=bytes(32)))


def reordered(session: Session) -> None:
    third, fourth = (session.get_one(AuditEntry, number) for number in (3, 4))
    third.actor, third.action, fourth.actor, fourth.action = fourth.actor, fourth.action, third.actor, third.action
    for each in (third, fourth):
        session.get_one(LedgerEntry, each.sequence).data = audit_log.exact_bytes(each)


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        (bit_in_bytes, "entry 3 was changed"),
        (column, "entry 3 was changed"),
        (back_dated, "entry 3 was changed"),
        (bytes_and_column, "entry 3 was changed"),
        (reordered, "entry 3 was changed"),
        (removed, "entry 3 is missing"),
        (bytes_removed, "entry 3 is missing"),
        (bit_in_tree, "the hash over entries 3 to 4 is missing or was changed"),
        (node_removed, "the hash over entries 3 to 3 is missing or was changed"),
        (node_added, "hashes over entries that are not there"),
    ],
)
def test_whatever_is_done_to_the_ledger_is_named(registry: Registry, attack: Attack, said: str) -> None:
    assert verify_registry(registry).ledger.newest.sequence == 7
    as_owner(registry, attack)
    with pytest.raises(IntegrityError, match=said):
        verify_registry(registry)


@pytest.mark.security_case("the ledger is rewritten whole, chain and tree computed anew", "refused")
def test_a_ledger_that_was_computed_anew_is_not_the_one_that_was_signed(registry: Registry) -> None:
    cut_to(registry, 2)
    light_past_the_program(registry, *range(20, 26))
    with pytest.raises(IntegrityError, match="first 7 entries are not those of its checkpoint"):
        verify_registry(registry)


def test_a_checkpoint_is_held_against_the_bytes_and_not_the_stored_hashes(registry: Registry) -> None:
    """The stored tree is still the one that was signed; the entries below it are others, with a chain of their own."""

    def rewrite(session: Session) -> None:
        last = audit_log.FIRST
        for number in range(1, 8):
            entry = session.get_one(AuditEntry, number)
            entry.actor = "nobody"
            entry.previous = last
            entry.hash = last = digest_of(audit_log.content_of(entry))
            session.get_one(LedgerEntry, number).data = audit_log.exact_bytes(entry)
            session.flush()

    as_owner(registry, rewrite)
    open_registry(registry.settings)  # looks at hashes alone
    with pytest.raises(IntegrityError, match="first 7 entries are not those that were signed"):
        verify_registry(registry)


def with_copy(bench: Bench, copy: Path) -> Registry:
    copy.touch()
    registry = open_registry(replace(bench.settings, ledger_copy=copy))
    light(registry, 1, 2, 3)
    return registry


def test_the_second_copy_is_compared_line_by_line(bench: Bench, database: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy.jsonl"
    registry = with_copy(bench, copy)
    assert verify_registry(registry).ledger.in_copy == 3
    lines = copy.read_bytes().splitlines(keepends=True)
    for content, said in (
        (lines[0].replace(b"lamp 1", b"lamp 9") + b"".join(lines[1:]), "entry 1 is not the one of the registry"),
        (b"".join(lines[2:]), "entry 1 is missing"),
        (b"".join([*lines[:2], *lines[4:]]), "entry 2 is missing"),
        (b"".join([lines[0], b"nonsense\n", *lines[1:]]), "line 2 cannot be read"),
    ):
        copy.write_bytes(content)
        with pytest.raises(IntegrityError, match=said):
            verify_registry(registry)
    copy.write_bytes(b"".join(lines) + lines[4].replace(b'"sequence":3', b'"sequence":4'))
    assert verify_registry(registry).ledger.not_committed == 1
    copy.unlink()
    with pytest.raises(IntegrityError, match="second copy is not there"):
        verify_registry(registry)


def test_an_entry_is_proven_to_who_has_the_file_and_the_key_alone(registry: Registry) -> None:
    signer = checkpoints.signer(registry.settings)
    assert signer is not None
    note = registry.checkpoint()
    for number in range(1, 8):
        with registry.reading() as session:
            text = tree.prove(session, number, note)
        proven = tree.check(text, signer.verifier)
        assert (proven.entry["sequence"], proven.entry["action"]) == (number, f"lamp {number} lit")
    with registry.reading() as session, pytest.raises(NotFoundError, match="covers no entry 8"):
        tree.prove(session, 8, note)
    with pytest.raises(IntegrityError, match="not signed by the log"):
        tree.check(text, checkpoints.new_log().verifier)
    for changed in (text.replace("index 6", "index 5"), text.replace("\n7\n", "\n8\n")):
        with pytest.raises(IntegrityError):
            tree.check(changed, signer.verifier)
    as_owner(registry, bit_in_bytes)
    with registry.reading() as session, pytest.raises(IntegrityError, match="Entry 3 is not the one that was signed"):
        tree.prove(session, 3, note)


@given(st.data())
def test_a_changed_character_of_a_proof_does_not_verify(data: st.DataObject) -> None:
    log, text = _PROOF
    place = data.draw(st.integers(0, len(text) - 1))
    other = data.draw(st.sampled_from("AZaz09+/=\n "))
    changed = text[:place] + other + text[place + 1 :]
    if changed == text:
        return
    try:
        proven = tree.check(changed, log)
    except (InputError, IntegrityError):
        return
    assert proven.entry == {"sequence": 2}  # the bits that base64 leaves over say nothing
    assert proven.head.size == 3


def _a_proof() -> tuple[notes.Verifier, str]:
    signer = checkpoints.new_log()
    leaves = [b'{"sequence":%d}' % number for number in (1, 2, 3)]
    growth, nodes = merkle.Growth(), dict[merkle.Node, bytes]()
    for leaf in leaves:
        nodes.update(growth.add(merkle.leaf_hash(leaf)))
    head = notes.TreeHead(signer.name, 3, growth.root()).to_text()
    proof = merkle.inclusion_proof(1, 3, lambda wanted: {node: nodes[node] for node in wanted})
    lines = [tree.HEADER, f"extra {notes.encoded(leaves[1])}", "index 1", *map(notes.encoded, proof)]
    return signer.verifier, "\n".join(lines) + f"\n\n{notes.Note(head, (notes.signed(head, signer),))}"


_PROOF = _a_proof()
