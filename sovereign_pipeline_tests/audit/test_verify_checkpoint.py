"""The verifier counts each witness once, by a signature of its own key, while that key is in force."""

import hashlib
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from sovereign_pipeline.audit import verify
from sovereign_pipeline.record import notes
from sovereign_pipeline.record.notes import COSIGNS, SIGNS, Note, Signature, Signer

AT = 1_900_000_000
LOG, COURT, PRESS = notes.new_signer("log", SIGNS), *(notes.new_signer(name, COSIGNS) for name in ("court", "press"))
TEXT = f"log\n5\n{notes.encoded(bytes(32))}\n"


def _trust(log_revoked_from: int | None, **witnesses: int | None) -> verify.Trust:
    """A trust root with this log and these witnesses, each with the index from which on it is revoked."""

    def key(signer: Signer, revoked_from: int | None) -> verify.Key:
        public = ed25519.Ed25519PublicKey.from_public_bytes(signer.verifier.key)
        return verify.Key(public, None, (), (), revoked_from)

    signers = {"court": COURT, "press": PRESS}
    roles = {
        "log": {"log": key(LOG, log_revoked_from)},
        "witness": {name: key(signers[name], revoked_from) for name, revoked_from in witnesses.items()},
    }
    return verify.Trust(1, 1, False, roles, len(witnesses))


def _cosigned(trust: verify.Trust, *signers: Signer) -> list[str]:
    signatures = (notes.signed(TEXT, LOG), *(notes.cosigned(TEXT, each, AT) for each in signers))
    return sorted(verify.read_checkpoint(str(Note(TEXT, signatures)), trust).cosigned)


def test_a_witness_is_named_with_its_key() -> None:
    trust = _trust(None, court=None, press=5)
    court, press = (verify.keyid_of(each.public) for each in trust.roles["witness"].values())
    assert _cosigned(trust, COURT, PRESS) == [f"court, key {court},", f"press, key {press},"]


@pytest.mark.security_case("A witness's revoked key cosigns a checkpoint of evidence", "not counted")
def test_a_revoked_witness_is_not_counted() -> None:
    assert len(_cosigned(_trust(None, court=None, press=4), COURT, PRESS)) == 1
    with pytest.raises(verify.Refused, match="no key of the role log"):
        _cosigned(_trust(4, court=None), COURT)


@pytest.mark.security_case("A witness names itself so that the four bytes of its key are another's", "counted once")
@pytest.mark.parametrize("order", [("court", "press"), ("press", "court")])
def test_a_key_that_is_named_as_another_counts_once(monkeypatch: pytest.MonkeyPatch, order: tuple[str, str]) -> None:
    real = hashlib.sha256

    def colliding(content: bytes) -> SimpleNamespace:
        """Every key under the name `found` has the same four bytes: some 2^32 tries find such a name."""
        found = real(b"the same" if content.startswith(b"found\n") else content)
        return SimpleNamespace(digest=found.digest, hexdigest=found.hexdigest)

    cosigned = notes.cosigned(TEXT, PRESS, AT)
    found = Signature("found", real(b"the same").digest()[:4], cosigned.content)
    note = Note(TEXT, (notes.signed(TEXT, LOG), cosigned, found))
    monkeypatch.setattr(verify, "hashlib", SimpleNamespace(sha256=colliding))
    names = verify.read_checkpoint(str(note), _trust(None, **dict.fromkeys(order))).cosigned
    assert [name.partition(",")[0] for name in names] == ["press"]
