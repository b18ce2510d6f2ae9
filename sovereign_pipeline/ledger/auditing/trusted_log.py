"""The ledger as the trust root has it: whose key signs its checkpoints, and which witnesses must have cosigned them.

What belongs here: comparing the log's key, and cosignatures, with the roles `log` and `witness`. What does not: the
policy of witnesses that an institution writes by hand (`witnesses.py`), which whoever starts from the trust root does
not read.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from cryptography.hazmat.primitives.serialization import load_pem_public_key

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.ledger.log import notes, witnesses
from sovereign_pipeline.ledger.log.checkpoints import assert_announcement_signed
from sovereign_pipeline.ledger.log.notes import COSIGNS, Note, Verifier
from sovereign_pipeline.signing.trust import Trust
from sovereign_pipeline.signing.trusted import TrustedKey

LOG, WITNESS = "log", "witness"


@dataclass(frozen=True)
class Witnessed:
    """What witnesses of the trust root have seen of the ledger."""

    entries: int
    """How many the newest checkpoint covers that enough of them cosigned."""
    at: Mapping[str, int]
    """Witness -> when it cosigned that one, in seconds since 1970."""


def assert_log_of(trust: Trust, log: Verifier, entries: int) -> None:
    """Raise IntegrityError where the log's key has not the role `log`, or is revoked for the newest of its entries."""
    key = next((each for each in trust.keys(LOG) if _raw(each) == log.key), None)
    if key is None:
        raise IntegrityError(
            f"The key of the ledger, {log}, has not the role log in the trust root.",
            "The holders of the root give it the role, once they know that it is this log's.",
        )
    if entries and not trust.counts(LOG, key.keyid, entries - 1):
        raise IntegrityError(
            f"The key of the ledger is revoked from entry {key.revoked_from} on, and it signed {entries} entries.",
            "Find out who has the key.",
        )


def witnessed_by(trust: Trust, log: Verifier, settings: Settings) -> Witnessed | None:
    """What enough witnesses of the trust root have seen; None where the trust root names none.

    Raises IntegrityError for a signature on a kept checkpoint that is nobody's of the trust root, and where no
    checkpoint has enough.
    """
    assert_announcement_signed(settings, log)
    role = trust.role(WITNESS)
    for note in witnesses.asked(settings):  # the newest first
        at = _cosigned(trust, log, note)
        if role.keys and len(at) >= role.threshold:
            return Witnessed(notes.parse_tree_head(note.text).size, at)
    if role.keys:
        raise IntegrityError(
            f"No checkpoint was cosigned by {role.threshold} of the trust root's witnesses.",
            "Write a request for the witnesses, and bring back their answers.",
        )
    return None


def _cosigned(trust: Trust, log: Verifier, note: Note) -> dict[str, int]:
    size = notes.parse_tree_head(note.text).size
    found: dict[str, int] = {}
    keys: set[bytes] = set()
    for signature in note.signatures:
        if (signature.name, signature.id) == (log.name, log.id):
            continue
        possible = ((each, Verifier(signature.name, _raw(each), COSIGNS)) for each in trust.keys(WITNESS))
        key, witness = next(((key, each) for key, each in possible if each.id == signature.id), (None, None))
        at = notes.cosigned_at(note, witness) if witness is not None else None
        if key is None or witness is None or at is None:
            raise IntegrityError(
                f"The checkpoint of {size} entries that was sent to witnesses: the signature of {signature.name} is "
                f"none of a witness that the trust root names.",
                "Name every witness in the trust root, or take the file again.",
            )
        # One key under two names is one witness, and one that is revoked is none.
        if witness.key not in keys and (not size or trust.counts(WITNESS, key.keyid, size - 1)):
            keys.add(witness.key)
            found[witness.name] = at
    return found


def _raw(key: TrustedKey) -> bytes:
    public = load_pem_public_key(key.public_pem.encode())
    return public.public_bytes_raw()  # type: ignore[union-attr]  # of the kind Ed25519, as reading the trust root asserts
