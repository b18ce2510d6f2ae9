"""The whole ledger computed again: whatever is done to bytes, tree or second copy is named."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import InputError, IntegrityError, NotFoundError
from sovereign_pipeline.base.files import canonical_json, digest_of
from sovereign_pipeline.record import checkpoints, merkle, notes, replay, tree
from sovereign_pipeline.record.database import Registry, open_registry
from sovereign_pipeline.record.tables import LedgerEntry, LedgerKey, LedgerNode
from sovereign_pipeline.record.verifying import verify_registry
from sovereign_pipeline_tests.record.lamps import cut_to, light, light_past_the_program, signed_head, signer_of
from sovereign_pipeline_tests.registry.bench import Bench

Attack = Callable[[Session], None]


@pytest.fixture
def registry(bench: Bench) -> Registry:
    registry = bench.open_registry()
    light(registry, *range(1, 8))
    return registry


def as_owner(registry: Registry, attack: Attack) -> None:
    replay.forget_all()
    with Session(registry.engine) as session:
        attack(session)
        session.commit()


def bit(session: Session) -> None:
    entry = session.get_one(LedgerEntry, 3)
    place = entry.data.index(b"lamp")
    entry.data = bytes([*entry.data[:place], entry.data[place] ^ 1, *entry.data[place + 1 :]])


def bit_in_tree(session: Session) -> None:
    node = session.get_one(LedgerNode, (1, 1))
    node.hash = bytes([node.hash[0] ^ 128, *node.hash[1:]])


def other_actor(session: Session) -> None:
    entry = session.get_one(LedgerEntry, 3)
    entry.data = entry.data.replace(b"officer", b"nobody")


def other_actor_and_hash(session: Session) -> None:
    entry = session.get_one(LedgerEntry, 3)
    said = {**json.loads(entry.data), "actor": "nobody"}
    said["hash"] = digest_of({name: value for name, value in said.items() if name != "hash"})
    entry.data = canonical_json(said)


def nonsense(session: Session) -> None:
    session.get_one(LedgerEntry, 3).data = b"{}"


def removed(session: Session) -> None:
    session.delete(session.get_one(LedgerEntry, 3))


def node_removed(session: Session) -> None:
    session.delete(session.get_one(LedgerNode, (0, 2)))


def node_added(session: Session) -> None:
    session.add(LedgerNode(level=0, position=7, hash=bytes(32)))


def reordered(session: Session) -> None:
    third, fourth = (session.get_one(LedgerEntry, number) for number in (3, 4))
    third.data, fourth.data = fourth.data, third.data


@pytest.mark.parametrize(
    ("attack", "said"),
    [
        (bit, "entry 3"),
        (other_actor, "entry 3"),
        (other_actor_and_hash, "entry 4 does not follow"),
        (nonsense, "entry 3"),
        (reordered, "entry 3"),
        (removed, "entry 3"),
        (bit_in_tree, "the hash over entries 3 to 4 is missing or was changed"),
        (node_removed, "the hash over entries 3 to 3 is missing or was changed"),
        (node_added, "hashes of entries that do not exist"),
    ],
)
def test_whatever_is_done_to_the_ledger_is_named(database: str, registry: Registry, attack: Attack, said: str) -> None:
    assert verify_registry(registry).ledger.newest.sequence == 7
    as_owner(registry, attack)
    with pytest.raises(IntegrityError, match=said):
        verify_registry(registry)


@pytest.mark.security_case("The whole ledger is rewritten, and chain and tree are recomputed", "rejected")
@pytest.mark.parametrize("replaces_key", [False, True])
def test_a_ledger_that_was_computed_anew_is_not_the_one_that_was_signed(registry: Registry, replaces_key: bool) -> None:
    cut_to(registry, 2)
    signer = checkpoints.new_log()
    light_past_the_program(registry, *range(20, 26), signer=signer)
    if replaces_key:
        as_owner(registry, lambda session: setattr(session.query(LedgerKey).one(), "verifier", str(signer.verifier)))
    with pytest.raises(IntegrityError):
        verify_registry(registry)


def with_copy(bench: Bench, copy: Path) -> Registry:
    copy.touch()
    registry = open_registry(replace(bench.settings, ledger_copy=copy))
    light(registry, 1, 2, 3)
    return registry


def test_the_second_copy_is_compared_line_by_line(bench: Bench, tmp_path: Path) -> None:
    copy = tmp_path / "copy.jsonl"
    registry = with_copy(bench, copy)
    assert verify_registry(registry).ledger.in_copy == 3
    lines = copy.read_bytes().splitlines(keepends=True)
    for content, said in (
        (lines[0].replace(b"lamp 1", b"lamp 9") + b"".join(lines[1:]), "entry 1 differs from the registry"),
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
    with pytest.raises(IntegrityError, match="second copy is missing"):
        verify_registry(registry)


def test_an_entry_is_proven_to_who_has_the_file_and_the_key_alone(registry: Registry) -> None:
    log = signer_of(registry).verifier
    note = registry.checkpoint()
    for number in range(1, 8):
        with registry.reading() as session:
            text = tree.prove(session, number, note)
        proven = tree.check(text, log)
        assert (proven.entry["sequence"], proven.entry["action"]) == (number, f"lamp {number} lit")
    with registry.reading() as session, pytest.raises(NotFoundError, match="does not cover entry 8"):
        tree.prove(session, 8, note)
    with pytest.raises(IntegrityError, match="not signed by the log"):
        tree.check(text, checkpoints.new_log().verifier)
    for changed in (text.replace("index 6", "index 5"), text.replace("\n7\n", "\n8\n")):
        with pytest.raises(IntegrityError):
            tree.check(changed, log)
    with registry.reading() as session:
        session.get_one(LedgerEntry, 3).data = b"{}"
        session.flush()
        with pytest.raises(IntegrityError):
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
    proof = merkle.inclusion_proof(1, 3, lambda wanted: {node: nodes[node] for node in wanted})
    lines = [tree.HEADER, f"extra {notes.encoded(leaves[1])}", "index 1", *map(notes.encoded, proof)]
    return signer.verifier, "\n".join(lines) + f"\n\n{signed_head(growth, signer)}"


_PROOF = _a_proof()
