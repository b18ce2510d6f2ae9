"""Signed notes: the examples of the specifications verify, and nothing that was changed in them does."""

import dataclasses

import pytest

from sovereign_pipeline.base.errors import InputError, IntegrityError
from sovereign_pipeline.record import notes
from sovereign_pipeline.record.notes import COSIGNS, SIGNS, TreeHead, parse_note, parse_verifier

# The example of golang.org/x/mod/sumdb/note, the program that C2SP's signed-note was written down from.
GO_KEY = "PeterNeumann+c74f20a3+ARpc2QcUPDhMQegwxbzhKqiBfsVkmqq/LDE4izWy10TW"
GO_NOTE = (
    "If you think cryptography is the answer to your problem,\n"
    "then you don't know what your problem is.\n"
    "\n"
    "— PeterNeumann x08go/ZJkuBS9UG/SffcvIAQxVBtiFupLLr8pAcElZInNIuGUgYN1FFYC2pZSNXgKvqfqdngotpRZb6KE6RyyBwJnAM=\n"
)
# The example of c2sp.org/tlog-cosignature: a log's signature and a witness's.
C2SP_NOTE = (
    "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"
    "\n"
    "— example.com/behind-the-sofa Az3grlgtzPICa5OS8npVmf1Myq/5IZniMp+ZJurmRDeOoRDe4URYN7u5/Zhcyv2q1gGzGku9nTo+"
    "zyWE+xeMcTOAYQ8=\n"
    "— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5nNo0"
    "xUe+mbIUBkBIfZ+qnA==\n"
)
HEAD = TreeHead("log.example/one", 7, bytes(32))
LOG, WITNESS = notes.new_signer("log.example/one", SIGNS), notes.new_signer("witness.example/w1", COSIGNS)


def test_a_note_of_another_program_verifies() -> None:
    verifier, note = parse_verifier(GO_KEY), parse_note(GO_NOTE)
    assert (str(verifier), str(note)) == (GO_KEY, GO_NOTE)
    assert notes.is_signed(note, verifier)
    with pytest.raises(IntegrityError, match="PeterNeumann does not match this text"):
        notes.is_signed(parse_note(GO_NOTE.replace("problem is", "solution is")), verifier)


def test_the_example_of_a_checkpoint_is_read_and_written_as_it_stands() -> None:
    note = parse_note(C2SP_NOTE)
    head = notes.parse_tree_head(note.text)
    assert (head.origin, head.size, str(note)) == ("example.com/behind-the-sofa", 20852163, C2SP_NOTE)
    assert head.to_text() == note.text
    assert [each.name for each in note.signatures] == ["example.com/behind-the-sofa", "witness.example.com/w1"]
    assert int.from_bytes(note.signatures[1].content[:8], "big") == 1679315147


def test_a_log_signs_and_a_witness_cosigns_with_the_time() -> None:
    text = HEAD.to_text()
    note = notes.Note(text, (notes.signed(text, LOG), notes.cosigned(text, WITNESS, 1_800_000_000)))
    read = parse_note(str(note))
    assert read == note
    assert notes.is_signed(read, LOG.verifier)
    assert notes.cosigned_at(read, WITNESS.verifier) == 1_800_000_000
    later = read.also([notes.cosigned(text, WITNESS, 1_900_000_000)])
    assert (len(later.signatures), notes.cosigned_at(later, WITNESS.verifier)) == (2, 1_900_000_000)
    for changed in (text.replace("7", "8"), text + "more\n"):
        with pytest.raises(IntegrityError):
            notes.is_signed(dataclasses.replace(note, text=changed), LOG.verifier)
        with pytest.raises(IntegrityError):
            notes.cosigned_at(dataclasses.replace(note, text=changed), WITNESS.verifier)


def test_a_signature_counts_for_the_key_and_the_purpose_that_it_was_made_for() -> None:
    text = HEAD.to_text()
    note = notes.Note(text, (notes.signed(text, LOG),))
    other = notes.new_signer(LOG.name, SIGNS)
    assert not notes.is_signed(note, other.verifier)
    as_witness = dataclasses.replace(LOG.verifier, kind=COSIGNS)
    assert notes.cosigned_at(note, as_witness) is None
    for content in (b"", bytes(63), note.signatures[0].content + b"\0"):
        with pytest.raises(IntegrityError):
            notes.is_signed(notes.Note(text, (dataclasses.replace(note.signatures[0], content=content),)), LOG.verifier)
    moved = dataclasses.replace(notes.cosigned(text, WITNESS, 5), content=bytes(8) + bytes(64))
    with pytest.raises(IntegrityError, match="witness"):
        notes.cosigned_at(notes.Note(text, (moved,)), WITNESS.verifier)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no signature\n",
        "a\n\n",
        "a\n\n— name\n",
        "a\n\n— na+me AAAAAAAA\n",
        "a\n\n— name AAAA\n",
        "a\n\n— name AAAAAA==\n",
        "a\n\n- name AAAAAAAA\n",
        "a\n\n— name AAAAAAAA",
        "a\0\n\n— name AAAAAAAA\n",
        "a\r\n\n— name AAAAAAAA\n",
        "a\n\n" + "— name AAAAAAAA\n" * 7_000,
    ],
)
def test_what_is_no_note_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="not a signed note"):
        parse_note(text)


@pytest.mark.parametrize("size", ["-1", "01", "1 ", "٣", "", "1e3", "9" * 30])
def test_what_is_no_checkpoint_is_refused(size: str) -> None:
    root = notes.encoded(bytes(32))
    for text in (
        f"origin\n{size}\n{root}\n",
        f"origin\n7\n{size}\n",
        "origin\n7\n",
        f"\n7\n{root}\n",
        HEAD.to_text() + "\n",
    ):
        with pytest.raises(InputError, match="not the checkpoint"):
            notes.parse_tree_head(text)


@pytest.mark.parametrize("text", ["", "name", "name+00000000+AAAA", GO_KEY.replace("c74f", "c75f"), GO_KEY + "A"])
def test_what_is_no_key_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="public key"):
        parse_verifier(text)
    with pytest.raises(InputError, match="private key"):
        notes.parse_signer(text)
