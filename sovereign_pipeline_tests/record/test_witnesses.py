"""Witnesses by files: they cosign a log that grew, and refuse what is stale or forked; a policy says how many must."""

from pathlib import Path

import pytest

from sovereign_pipeline.base.errors import ConflictError, InputError, IntegrityError
from sovereign_pipeline.record import checkpoints, notes, witnesses
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.notes import COSIGNS, Note, Signer
from sovereign_pipeline.record.verifying import verify_registry
from sovereign_pipeline_tests.examples import examples
from sovereign_pipeline_tests.record.lamps import (
    cut_to,
    exact_bytes,
    light,
    light_past_the_program,
    signed_head,
    signer_of,
    tree_of,
)
from sovereign_pipeline_tests.registry.bench import Bench

FIRST, SECOND = (notes.new_signer(f"office.example/w{number}", COSIGNS) for number in (1, 2))
AT = 1_800_000_000


@pytest.fixture
def registry(bench: Bench) -> Registry:
    registry = bench.open_registry()
    light(registry, 1, 2, 3)
    return registry


def asked(registry: Registry, old: int) -> str:
    note = registry.checkpoint()
    witnesses.note_asked(registry.settings, note)
    with registry.reading() as session:
        return witnesses.request(session, note, old)


def answered(registry: Registry, request: str, witness: Signer, state: Path) -> str:
    log = signer_of(registry).verifier
    return witnesses.answer(request, witness, [log], state / witness.name.replace("/", "-"), AT)


def policy(registry: Registry, tmp_path: Path, needed: str = "2") -> witnesses.Policy:
    file = tmp_path / "witnesses.policy"
    file.write_text(
        f"# Two offices.\nlog {signer_of(registry).verifier}\n\n"
        f"witness one {FIRST.verifier}\nwitness\ttwo {SECOND.verifier} https://w2\n"
        f"group offices {needed} one two\nquorum offices\n"
    )
    return witnesses.read_policy(file)


def test_witnesses_cosign_what_grew_and_the_quorum_is_reached(registry: Registry, tmp_path: Path) -> None:
    by = policy(registry, tmp_path)
    request = asked(registry, 0)
    light(registry, 4)  # the log goes on while the stick travels
    _, cosigned = witnesses.add_cosignatures(registry.settings, by, answered(registry, request, FIRST, tmp_path))
    assert cosigned == ["one"]
    with pytest.raises(IntegrityError, match="No checkpoint has the cosignatures"):
        verify_registry(registry, by)
    note, cosigned = witnesses.add_cosignatures(registry.settings, by, answered(registry, request, SECOND, tmp_path))
    assert (cosigned, notes.parse_tree_head(note.text).size) == (["one", "two"], 3)
    report = verify_registry(registry, by)
    assert (report.checkpoint, report.witnessed, dict(report.cosigned)) == (4, 3, {"one": AT, "two": AT})
    again = asked(registry, 3)
    for witness in (FIRST, SECOND):
        witnesses.add_cosignatures(registry.settings, by, answered(registry, again, witness, tmp_path))
    assert verify_registry(registry, by).witnessed == 4
    assert witnesses.newest_cosigned_size(registry.settings) == 4


def test_a_stale_request_is_refused_with_the_size(registry: Registry, tmp_path: Path) -> None:
    first = asked(registry, 0)
    answered(registry, first, FIRST, tmp_path)
    light(registry, 4)
    with pytest.raises(ConflictError, match="cosigned covers 3 entries, but the request begins at 0"):
        answered(registry, asked(registry, 0), FIRST, tmp_path)
    answered(registry, asked(registry, 3), FIRST, tmp_path)
    with pytest.raises(ConflictError, match="cosigned covers 4 entries"):
        answered(registry, first, FIRST, tmp_path)
    answered(registry, asked(registry, 4), FIRST, tmp_path)


@pytest.mark.security_case(
    "The ledger is rewritten by someone with access to database, home and the log's key", "rejected"
)
def test_a_forked_log_is_refused_by_who_cosigned_the_other_and_by_verifying(registry: Registry, tmp_path: Path) -> None:
    by = policy(registry, tmp_path, needed="any")
    witnesses.add_cosignatures(registry.settings, by, answered(registry, asked(registry, 0), FIRST, tmp_path))
    cut_to(registry, 2)
    signer = signer_of(registry)
    light_past_the_program(registry, 7, 8, signer=signer)
    (registry.settings.ledger / "checkpoint").write_text(signed_head(tree_of(exact_bytes(registry)), signer))
    assert _refused_by(registry, by) == "checkpoint of 3 entries that was sent to witnesses"
    with pytest.raises(IntegrityError, match="was forked: its 4 entries do not begin with the 3"):
        answered(registry, asked(registry, 3), FIRST, tmp_path)


def _refused_by(registry: Registry, by: witnesses.Policy) -> str:
    with pytest.raises(IntegrityError, match="differ from the signed entries") as refusal:
        verify_registry(registry, by)
    return refusal.value.message.split(":")[0].removeprefix("The ")


def test_only_the_log_that_is_watched_is_cosigned(registry: Registry, tmp_path: Path) -> None:
    request = asked(registry, 0)
    with pytest.raises(InputError, match="is not configured for the log"):
        witnesses.answer(request, FIRST, [checkpoints.new_log().verifier], tmp_path, AT)
    log = signer_of(registry).verifier
    with pytest.raises(IntegrityError, match="does not match this text"):
        witnesses.answer(request.replace("\n3\n", "\n4\n"), FIRST, [log], tmp_path, AT)
    unsigned = Note(registry.checkpoint().text, (notes.signed("x\n", checkpoints.new_log()),))
    with pytest.raises(IntegrityError, match="not signed by the log"):
        witnesses.answer(f"old 0\n\n{unsigned}", FIRST, [log], tmp_path, AT)
    for text in ("", "old 1\n", "old -1\n\n" + request.partition("\n\n")[2], "old 0\nAAAA\n\n" + request):
        with pytest.raises(InputError):
            witnesses.answer(text, FIRST, [log], tmp_path, AT)


def test_an_answer_of_a_stranger_or_over_something_else_is_not_kept(registry: Registry, tmp_path: Path) -> None:
    by = policy(registry, tmp_path)
    stranger = notes.new_signer(FIRST.name, COSIGNS)
    line = answered(registry, asked(registry, 0), stranger, tmp_path)
    with pytest.raises(IntegrityError, match="not a cosignature of a requested checkpoint"):
        witnesses.add_cosignatures(registry.settings, by, line)
    other = str(notes.cosigned("other\n1\nx\n", FIRST, AT))
    with pytest.raises(IntegrityError, match="not a cosignature of a requested checkpoint"):
        witnesses.add_cosignatures(registry.settings, by, other)


@pytest.mark.parametrize(
    ("lines", "said"),
    examples(__file__, "a_policy_that_could_be_misread_is_refused"),
)
def test_a_policy_that_could_be_misread_is_refused(tmp_path: Path, lines: str, said: str) -> None:
    file = tmp_path / "policy"
    keys = {"one": FIRST.verifier, "two": SECOND.verifier, "log": checkpoints.new_log().verifier}
    file.write_text(lines.format(**keys) + "\n")
    with pytest.raises(InputError, match=said):
        witnesses.read_policy(file)


def test_a_quorum_of_groups(tmp_path: Path) -> None:
    signers = [notes.new_signer(f"w{number}", COSIGNS) for number in range(5)]
    lines = [f"witness w{number} {signer.verifier}" for number, signer in enumerate(signers)]
    lines += ["group a 2 w0 w1 w2", "group b any w3 w4", "group both all a b", "quorum both"]
    file = tmp_path / "policy"
    file.write_text("\n".join(lines) + "\n")
    by = witnesses.read_policy(file)
    assert by.is_met({"w0", "w2", "w4"})
    assert not by.is_met({"w0", "w1", "w2"})
    assert not by.is_met({"w0", "w3", "w4"})
