"""Keys on tokens, by PKCS#11: a smart card, a USB token, a hardware security module. The private key never leaves it.

What belongs here: finding a P-256 key on a token and signing with it. What does not: keys in files (`keys.py`).
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.signing.keys import Passphrase, keyid_of, public_pem_of

MODULES = tuple(
    Path("/usr/lib/x86_64-linux-gnu") / name
    for name in ("p11-kit-proxy.so", "opensc-pkcs11.so", "softhsm/libsofthsm2.so")
)
"""Where Debian has PKCS#11 modules; the first that is there is taken where none is named."""


@dataclass(frozen=True)
class TokenSigner:
    """A key on a token, while the session with it is open."""

    keyid: str
    public_pem: str
    session: Any = field(repr=False, compare=False)
    private: Any = field(repr=False, compare=False)

    def sign(self, content: bytes) -> bytes:
        """The digest is made here, so that the token need not take long messages. It returns two numbers."""
        import PyKCS11
        from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature

        digest = hashlib.sha256(content).digest()
        try:
            raw = bytes(self.session.sign(self.private, digest, PyKCS11.Mechanism(PyKCS11.CKM_ECDSA)))
        except PyKCS11.PyKCS11Error as error:
            raise InputError(
                f"The token did not sign: {error}.", "Check that it is plugged in, and try again."
            ) from None
        half = len(raw) // 2
        return encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big"))


def open_token(label: str, name: str | None, module: Path | None, pin: Passphrase) -> TokenSigner:
    """Sign in to the token with this label.

    Args:
        name: the key's label on the token; None where the token holds one P-256 key.
        module: the vendor's PKCS#11 library; None takes the first of `MODULES` that is there.
    """
    try:
        import PyKCS11
    except ImportError:
        raise InputError(
            "Keys on tokens need the extra `pkcs11` of this package.", "Install it, or use a key file."
        ) from None

    library = PyKCS11.PyKCS11Lib()
    path = module or next((each for each in MODULES if each.exists()), None)
    if path is None:
        raise InputError("No PKCS#11 module was found.", "Name the vendor's library with --pkcs11-module.")
    try:
        library.load(str(path))
        slots = [slot for slot in library.getSlotList(tokenPresent=True) if _label(library, slot) == label]
    except PyKCS11.PyKCS11Error as error:
        raise InputError(f"{path}: the PKCS#11 module does not answer: {error}.", "Check the path.") from None
    if len(slots) != 1:
        raise InputError(f"{len(slots)} tokens have the label '{label}' in {path}.", "Name one that is plugged in.")
    session = library.openSession(slots[0])
    try:
        session.login(pin())
    except PyKCS11.PyKCS11Error as error:
        if error.value == PyKCS11.CKR_USER_ALREADY_LOGGED_IN:  # by another key of this token, in this process
            return _signer(session, label, name)
        raise InputError(
            f"Token '{label}': the PIN was not accepted: {error}.", "Mind that few tries are left."
        ) from None
    return _signer(session, label, name)


def _label(library: Any, slot: Any) -> str:
    return str(library.getTokenInfo(slot).label).rstrip(" \0")


def _signer(session: Any, label: str, name: str | None) -> TokenSigner:
    import PyKCS11

    wanted = [(PyKCS11.CKA_CLASS, PyKCS11.CKO_PRIVATE_KEY), (PyKCS11.CKA_KEY_TYPE, PyKCS11.CKK_ECDSA)]
    if name is not None:
        wanted.append((PyKCS11.CKA_LABEL, name))
    found = session.findObjects(wanted)
    if len(found) != 1:
        named = f" named '{name}'" if name is not None else ""
        raise InputError(
            f"Token '{label}' holds {len(found)} elliptic keys{named}.", "Write --token LABEL/NAME of one key."
        )
    (identifier,) = session.getAttributeValue(found[0], [PyKCS11.CKA_ID])
    pem = _public_pem(session, bytes(identifier), label)
    return TokenSigner(keyid_of(pem), pem, session, found[0])


def _public_pem(session: Any, identifier: Sequence[int], label: str) -> str:
    import PyKCS11
    from cryptography.hazmat.primitives.asymmetric import ec

    of_the_key = [(PyKCS11.CKA_CLASS, PyKCS11.CKO_PUBLIC_KEY), (PyKCS11.CKA_ID, identifier)]
    public = session.findObjects(of_the_key)
    if len(public) != 1:
        raise InputError(f"Token '{label}' holds no public half of the key.", "Make the pair on the token anew.")
    (point,) = session.getAttributeValue(public[0], [PyKCS11.CKA_EC_POINT])
    try:
        # An OCTET STRING in DER: two bytes of tag and length before the point of 65.
        return public_pem_of(ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), bytes(point)[-65:]))
    except ValueError:
        raise InputError(f"Token '{label}': its key is not P-256.", "Make one on the curve P-256.") from None
