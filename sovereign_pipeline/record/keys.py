"""Read, write and open signing keys in files and on PKCS#11 tokens."""

import hashlib
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.pbkdf2 import PBKDF2HMAC
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.files import write_new
from sovereign_pipeline.record.notes import parse_verifier

Algorithm = Literal["p256", "ed25519"]
PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
PublicKey = ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey
Passphrase = Callable[[], str]
"""Function that returns a passphrase from a prompt or a file. A passphrase is never an argument or an environment
variable, because other processes can read both."""

SHORTEST_PASSPHRASE = 12
ROUNDS = 600_000
"""Number of PBKDF2 rounds with SHA-256. With the 2,048 rounds that `cryptography` uses by default, an attacker could
guess a passphrase quickly."""
ENCRYPTED_LABEL = "ENCRYPTED PRIVATE KEY"
LONGEST_KEY_FILE = 1 << 16


class Signer(Protocol):
    """A signing key in a file or on a token."""

    @property
    def keyid(self) -> str: ...

    @property
    def public_pem(self) -> str: ...

    def sign(self, content: bytes) -> bytes:
        """Return a signature. P-256: ECDSA with SHA-256, DER-encoded, with low s. Ed25519: the 64 bytes of the
        signature."""


@dataclass(frozen=True)
class FileSigner:
    keyid: str
    public_pem: str
    private: PrivateKey = field(repr=False, compare=False)

    @classmethod
    def of(cls, private: PrivateKey) -> "FileSigner":
        pem = public_pem_of(private.public_key())
        return cls(keyid_of(pem), pem, private)

    @property
    def algorithm(self) -> Algorithm:
        return "ed25519" if isinstance(self.private, ed25519.Ed25519PrivateKey) else "p256"

    def sign(self, content: bytes) -> bytes:
        if isinstance(self.private, ed25519.Ed25519PrivateKey):
            return self.private.sign(content)
        return with_low_s(self.private.sign(content, ec.ECDSA(SHA256())))


def read_public_key(pem: str) -> PublicKey:
    """Read a P-256 or Ed25519 public key. Raises InputError for anything else."""
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise InputError("This is not a public key in PEM format.", "Use the .pub file of the key.") from None
    if isinstance(key, ed25519.Ed25519PublicKey):
        return key
    if isinstance(key, ec.EllipticCurvePublicKey) and isinstance(key.curve, ec.SECP256R1):
        return key
    raise InputError("This public key is neither P-256 nor Ed25519.", "Generate a P-256 or Ed25519 key.")


def public_pem_of(public: PublicKey) -> str:
    """Return the canonical PEM of a public key, so that equal keys have equal text."""
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def keyid_of(pem: str) -> str:
    """Return the SHA-256 (64 hex digits) of the key's SubjectPublicKeyInfo in DER, independent of the PEM's layout."""
    return hashlib.sha256(der_of(pem)).hexdigest()


def der_of(pem: str) -> bytes:
    return read_public_key(pem).public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def algorithm_of(pem: str) -> Algorithm:
    return "ed25519" if isinstance(read_public_key(pem), ed25519.Ed25519PublicKey) else "p256"


def is_signed(pem: str, signature: bytes, content: bytes) -> bool:
    """Return True if the signature over these bytes is valid for the key."""
    key = read_public_key(pem)
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, content)
        else:
            key.verify(signature, content, ec.ECDSA(SHA256()))
    except InvalidSignature:
        return False
    return True


P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def is_low_s(signature: bytes) -> bool:
    """Return True if a P-256 signature has the lower of two possible values of s. From a valid (r, s), anyone can get
    (r, n - s), which is also valid. Where a signature's bytes identify an act, only the low form is accepted."""
    try:
        return decode_dss_signature(signature)[1] <= P256_ORDER // 2
    except ValueError:
        return False


def with_low_s(signature: bytes) -> bytes:
    """Return a P-256 signature in the form that `is_low_s` accepts."""
    r, s = decode_dss_signature(signature)
    return encode_dss_signature(r, min(s, P256_ORDER - s))


def generate(algorithm: Algorithm = "p256") -> FileSigner:
    private: PrivateKey = (
        ed25519.Ed25519PrivateKey.generate() if algorithm == "ed25519" else ec.generate_private_key(ec.SECP256R1())
    )
    return FileSigner.of(private)


def write_key(path: Path, signer: FileSigner, passphrase: str | None) -> None:
    """Write a new private key to a file, and its public key to a `.pub` file beside it. Raises InputError if one of the
    files exists, or if the passphrase has fewer than `SHORTEST_PASSPHRASE` characters.

    Args:
        passphrase: None leaves the key unencrypted, for a service. InputError is then raised if other accounts have
            access to the key's directory.
    """
    if passphrase is not None and len(passphrase) < SHORTEST_PASSPHRASE:
        raise InputError(
            f"The passphrase for {path.name} is shorter than {SHORTEST_PASSPHRASE} characters.",
            "Choose a passphrase of several words.",
        )
    public = path.with_name(path.name + ".pub")
    for each in (path, public):
        if each.exists() or each.is_symlink():
            raise InputError(
                f"{each}: the file exists already, and keys are never overwritten.", "Choose another file."
            )
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if passphrase is None:
        _refuse_open_directory(path)
        pem = signer.private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    else:
        pem = _encrypted_pem(signer.private, passphrase)
    write_new(path, pem)
    write_new(public, signer.public_pem, 0o644)


def read_key(path: Path, passphrase: Passphrase) -> FileSigner:
    """Read a private key. Asks for the passphrase only if the file is encrypted. Raises the errors of
    `read_private_file`, and InputError if the passphrase is wrong, if the file is not a P-256 or Ed25519 key, or if it
    is unencrypted and other accounts have access to its directory."""
    content = read_private_file(path)
    encrypted = ENCRYPTED_LABEL.encode() in content
    if not encrypted:
        _refuse_open_directory(path)
    try:
        private = load_pem_private_key(content, passphrase().encode() if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise InputError(
            f"{path}: the passphrase does not decrypt this key."
            if encrypted
            else f"{path}: this is not a private key.",
            "Check that this is the right key file.",
        ) from None
    is_p256 = isinstance(private, ec.EllipticCurvePrivateKey) and isinstance(private.curve, ec.SECP256R1)
    if isinstance(private, PrivateKey) and (is_p256 or isinstance(private, ed25519.Ed25519PrivateKey)):
        return FileSigner.of(private)
    raise InputError(f"{path}: this key is neither P-256 nor Ed25519.", "Generate a P-256 or Ed25519 key.")


def passphrase_from(path: Path) -> Passphrase:
    """Return a function that reads the passphrase from a file, without the trailing line break."""
    return lambda: read_private_file(path).decode(errors="replace").rstrip("\r\n")


def read_private_file(path: Path) -> bytes:
    """Return the bytes of a private file. Raises InputError if the file is missing, is not a regular file, belongs to
    another account or can be read by other accounts. Raises OSError for a symbolic link or a lack of permission."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, ValueError):
        raise InputError(f"{path}: the file does not exist.", "Check the path, and that the disk is mounted.") from None
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path}: this is not a regular file.", "Give the path of the key file itself.")
        if status.st_mode & 0o077:
            raise InputError(
                f"{path}: other accounts can read this file (mode {stat.S_IMODE(status.st_mode):04o}).",
                "Give it mode 0600. If someone else may have read it, replace the key.",
            )
        if status.st_uid not in (os.geteuid(), 0):
            raise InputError(f"{path}: this file belongs to another account.", "Use a key of your own account.")
        return stream.read(LONGEST_KEY_FILE)


def _refuse_open_directory(path: Path) -> None:
    status = path.parent.stat()
    if status.st_mode & 0o077 or status.st_uid not in (os.geteuid(), 0):
        raise InputError(
            f"{path}: the key is not encrypted, and its directory is open to other accounts.",
            "Give the directory mode 0700, or encrypt the key with a passphrase.",
        )


def _encrypted_pem(private: PrivateKey, passphrase: str) -> bytes:
    """Return the key as PKCS#8, encrypted with AES-256 and `ROUNDS` rounds of PBKDF2. OpenSSL can read this format."""
    from asn1crypto.algos import Pbkdf2Salt
    from asn1crypto.core import OctetString
    from asn1crypto.keys import EncryptedPrivateKeyInfo
    from asn1crypto.pem import armor

    salt, vector = os.urandom(16), os.urandom(16)
    key = PBKDF2HMAC(SHA256(), 32, salt, ROUNDS).derive(passphrase.encode())
    padder, encryptor = PKCS7(128).padder(), Cipher(algorithms.AES256(key), modes.CBC(vector)).encryptor()
    padded = padder.update(private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())) + padder.finalize()
    derivation = {
        "algorithm": "pbkdf2",
        "parameters": {
            "salt": Pbkdf2Salt("specified", OctetString(salt)),
            "iteration_count": ROUNDS,
            "prf": {"algorithm": "sha256"},
        },
    }
    scheme = {"algorithm": "aes256_cbc", "parameters": vector}
    envelope = EncryptedPrivateKeyInfo(
        {
            "encryption_algorithm": {
                "algorithm": "pbes2",
                "parameters": {"key_derivation_func": derivation, "encryption_scheme": scheme},
            },
            "encrypted_data": encryptor.update(padded) + encryptor.finalize(),
        }
    )
    return bytes(armor(ENCRYPTED_LABEL, envelope.dump()))


MODULES = tuple(
    Path("/usr/lib/x86_64-linux-gnu") / name
    for name in ("p11-kit-proxy.so", "opensc-pkcs11.so", "softhsm/libsofthsm2.so")
)
"""Paths of PKCS#11 modules in Debian. The first one that exists is the default."""


@dataclass(frozen=True)
class TokenSigner:
    """A signing key on a token, with the open session."""

    keyid: str
    public_pem: str
    session: Any = field(repr=False, compare=False)
    private: Any = field(repr=False, compare=False)

    def sign(self, content: bytes) -> bytes:
        """Sign content with the token. The token receives only a hash of the content, because some tokens reject long
        messages."""
        import PyKCS11

        digest = hashlib.sha256(content).digest()
        try:
            raw = bytes(self.session.sign(self.private, digest, PyKCS11.Mechanism(PyKCS11.CKM_ECDSA)))
        except PyKCS11.PyKCS11Error as error:
            raise InputError(
                f"The token failed to sign: {error}.", "Check that the token is plugged in, and try again."
            ) from None
        half = len(raw) // 2
        return with_low_s(encode_dss_signature(int.from_bytes(raw[:half], "big"), int.from_bytes(raw[half:], "big")))


def open_token(label: str, name: str | None, module: Path | None, pin: Passphrase) -> TokenSigner:
    """Log in to the token with this label, and return its signing key. Raises InputError if there is not exactly one
    such token and key, or if the token rejects the PIN.

    Args:
        name: the key's label on the token; None if the token has only one P-256 key.
        module: path of the vendor's PKCS#11 library; None for the first existing one of `MODULES`.
    """
    try:
        import PyKCS11
    except ImportError:
        raise InputError(
            "Keys on tokens need the extra `pkcs11` of this package.", "Install this extra, or use a key file."
        ) from None

    library = PyKCS11.PyKCS11Lib()
    path = module or next((each for each in MODULES if each.exists()), None)
    if path is None:
        raise InputError("No PKCS#11 module was found.", "Give the vendor's library with --pkcs11-module.")
    try:
        library.load(str(path))
        slots = [slot for slot in library.getSlotList(tokenPresent=True) if _label(library, slot) == label]
    except PyKCS11.PyKCS11Error as error:
        raise InputError(f"{path}: the PKCS#11 module failed: {error}.", "Check the path of the module.") from None
    if len(slots) != 1:
        raise InputError(
            f"{path} finds {len(slots)} tokens with the label '{label}'.", "Plug in exactly one token with this label."
        )
    session = library.openSession(slots[0])
    try:
        session.login(pin())
    except PyKCS11.PyKCS11Error as error:
        if error.value == PyKCS11.CKR_USER_ALREADY_LOGGED_IN:  # the same token was opened for another key
            return _signer(session, label, name)
        raise InputError(
            f"Token '{label}': the PIN was rejected: {error}.", "Check the PIN. A few wrong PINs lock the token."
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
            f"Token '{label}' has {len(found)} elliptic-curve keys{named}.",
            "Select one with --token LABEL/NAME." if found else "Create one, or correct --token.",
        )
    (identifier,) = session.getAttributeValue(found[0], [PyKCS11.CKA_ID])
    pem = _public_pem(session, bytes(identifier), label)
    return TokenSigner(keyid_of(pem), pem, session, found[0])


def _public_pem(session: Any, identifier: Sequence[int], label: str) -> str:
    import PyKCS11

    of_the_key = [(PyKCS11.CKA_CLASS, PyKCS11.CKO_PUBLIC_KEY), (PyKCS11.CKA_ID, identifier)]
    public = session.findObjects(of_the_key)
    if len(public) != 1:
        raise InputError(
            f"Token '{label}' lacks the public half of the key.", "Generate the key pair on the token again."
        )
    (point,) = session.getAttributeValue(public[0], [PyKCS11.CKA_EC_POINT])
    try:
        # a DER OCTET STRING: two bytes of tag and length before the 65-byte point
        return public_pem_of(ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), bytes(point)[-65:]))
    except ValueError:
        raise InputError(
            f"Token '{label}': the key on this token is not P-256.", "Generate a key on the curve P-256."
        ) from None


@dataclass(frozen=True)
class KeyFile:
    path: Path

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class TokenKey:
    """A key on a token, identified by the token's label and, if the token has several keys, the key's label."""

    label: str
    name: str | None = None
    module: Path | None = None
    """Path of the vendor's PKCS#11 library; None for the first existing one of `MODULES`."""

    def __str__(self) -> str:
        return f"token {self.label}" + (f"/{self.name}" if self.name else "")


KeySource = KeyFile | TokenKey


def key_source(key: Path | None, token: str | None, module: Path | None = None) -> KeySource:
    """Return the key file or the token that a command's options name. Raises InputError unless the options name exactly
    one of the two."""
    if (key is None) == (token is None):
        raise InputError("Exactly one key is needed.", "Give --key FILE or --token LABEL.")
    if key is not None:
        return KeyFile(key)
    label, _, name = str(token).partition("/")
    return TokenKey(label, name or None, module)


def open_signer(source: KeySource, passphrase: Passphrase) -> Signer:
    """Open a key for signing. `passphrase` returns the passphrase of an encrypted file, or a token's PIN."""
    if isinstance(source, KeyFile):
        return read_key(source.path, passphrase)
    return open_token(source.label, source.name, source.module, passphrase)


def read_public_file(path: Path) -> str:
    """Return the PEM of a public key file. Raises InputError unless the file contains a P-256 or Ed25519 key as PEM, or
    the C2SP key line of a log or witness."""
    if not path.is_file():
        raise InputError(f"{path}: the file does not exist.", "Use the .pub file of the key.")
    with path.open("rb") as stream:
        text = stream.read(LONGEST_KEY_FILE).decode(errors="replace").strip()
    try:
        if text.startswith("-----"):
            return public_pem_of(read_public_key(text))
        return public_pem_of(Ed25519PublicKey.from_public_bytes(parse_verifier(text).key))
    except InputError as error:
        raise InputError(f"{path}: {error.message}", error.hint) from None


def asked_passphrase(what: str, file: Path | None = None) -> Passphrase:
    """Return a function that reads the passphrase from `file` or, if `file` is None, from a hidden prompt."""
    if file is not None:
        return passphrase_from(file)
    return lambda: _prompt(what)


def new_passphrase(what: str, file: Path | None = None) -> str:
    """Return the passphrase for a new key from `file` or, if `file` is None, from a prompt. The prompt asks twice.
    Raises InputError if the two inputs differ, or if there is no terminal for a prompt."""
    if file is not None:
        return passphrase_from(file)()
    first = _prompt(what)
    if _prompt(f"{what}, once more") != first:
        raise InputError("The two passphrases differ.", "Try again.")
    return first


def _prompt(what: str) -> str:
    import getpass
    import sys

    if not sys.stdin.isatty():
        raise InputError(f"{what}: there is no terminal for a prompt.", "Give --passphrase-file.")
    return getpass.getpass(f"{what}: ")
