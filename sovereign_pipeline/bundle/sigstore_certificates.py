"""Who signed a sigstore bundle with a certificate: verified offline, by sigstore's own library.

A certificate is valid for minutes, so a trusted time is needed: the log's signed time of entry, or a time stamp's. The
library compares the certificate with the trusted root's authority at that time and with its certificate log, the entry
with the signature, and the entry's inclusion proof and promise with the log's key. It is no part of an installation,
only of the checkout where bundles are packed. What belongs here: that. What does not: whether the identity counts
(`sigstore_bundles.py`).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sovereign_pipeline.base.errors import IntegrityError, NotFoundError
from sovereign_pipeline.bundle.carried.reading import on_one_line
from sovereign_pipeline.record.statements import PAYLOAD

if TYPE_CHECKING:
    from cryptography.x509 import Certificate

ISSUER_OID = "1.3.6.1.4.1.57264.1.8"
MOST_SAID = 200
"""Characters of a reason: it quotes what the bundle holds."""


@dataclass(frozen=True)
class Certified:
    """What a bundle says, and who is certified to have signed it."""

    identity: str
    """The one subject of the certificate."""
    issuer: str
    """Who vouched for it to sigstore."""
    payload: bytes | None
    """An in-toto statement; None: the signature is over the file itself."""


def certified(bundle: bytes, sha256: str | None, root: Path) -> Certified:
    """Who signed a bundle, which is as sigstore writes it.

    Args:
        sha256: of the file that was signed; None where a statement was.
        root: sigstore's trusted root, under which everything is verified.

    Raises IntegrityError with the first reason why it does not hold, and NotFoundError without the library.
    """
    try:
        from sigstore.hashes import Hashed
        from sigstore.models import Bundle, TrustedRoot
        from sigstore.verify import Verifier
        from sigstore_models.common.v1 import HashAlgorithm
    except ImportError:
        raise NotFoundError(
            "sigstore is not installed, so certificates of publishers cannot be verified.",
            "Pack from a checkout that `make` set up, or: pip install 'sovereign-pipeline[publishers]'",
        ) from None
    policy = _ReadIdentity()
    try:
        verifier = Verifier(trusted_root=TrustedRoot.from_file(str(root)))
        parsed = Bundle.from_json(bundle)
        if sha256 is not None:
            digest = Hashed(algorithm=HashAlgorithm.SHA2_256, digest=bytes.fromhex(sha256))
            verifier.verify_artifact(digest, parsed, policy)
            return Certified(policy.identity, policy.issuer, None)
        kind, payload = verifier.verify_dsse(parsed, policy)
    except Exception as error:  # the library's own, and those of what it parses with: each means no
        said = on_one_line(" ".join(f"{type(error).__name__}: {error}".split()))
        raise IntegrityError(f"It does not hold under {root.name} ({said[:MOST_SAID]}).") from None
    if kind != PAYLOAD:
        raise IntegrityError(f"What is signed is {kind[:MOST_SAID]!a}, not {PAYLOAD}.")
    return Certified(policy.identity, policy.issuer, payload)


class _ReadIdentity:
    """A policy, as the library asks for one, that keeps whom the certificate names. Whether it counts comes later."""

    identity = ""
    issuer = ""

    def verify(self, cert: "Certificate") -> None:
        from cryptography.hazmat import asn1
        from cryptography.x509 import (
            ObjectIdentifier,
            RFC822Name,
            SubjectAlternativeName,
            UniformResourceIdentifier,
            UnrecognizedExtension,
        )
        from sigstore.errors import VerificationError

        names = list(cert.extensions.get_extension_for_class(SubjectAlternativeName).value)
        issuer = cert.extensions.get_extension_for_oid(ObjectIdentifier(ISSUER_OID)).value
        if len(names) != 1 or not isinstance(names[0], RFC822Name | UniformResourceIdentifier):
            raise VerificationError("the certificate's subject is not one address or URI")
        assert isinstance(issuer, UnrecognizedExtension)  # no library knows it
        self.identity, self.issuer = names[0].value, asn1.decode_der(str, issuer.value)
        if not all(each and each.isprintable() for each in (self.identity, self.issuer)):
            raise VerificationError("the certificate names nobody")
