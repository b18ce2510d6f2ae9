"""Where somebody's key is: in a file, or on a token. What every command with `--key` and `--token` shares."""

import base64
import binascii
import hashlib
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.signing.keys import (
    LONGEST_KEY_FILE,
    Passphrase,
    Signer,
    passphrase_from,
    public_pem_of,
    read_key,
    read_public_key,
)
from sovereign_pipeline.signing.tokens import open_token


@dataclass(frozen=True)
class KeyFile:
    """A private key in a file."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)


@dataclass(frozen=True)
class TokenKey:
    """A key on a token: the token's label, and the key's own where it holds several."""

    label: str
    name: str | None = None
    module: Path | None = None
    """The vendor's PKCS#11 library; None takes the one that the system has."""

    def __str__(self) -> str:
        return f"token {self.label}" + (f"/{self.name}" if self.name else "")


KeySource = KeyFile | TokenKey


def key_source(key: Path | None, token: str | None, module: Path | None = None) -> KeySource:
    """From the options of a command. Raises InputError unless exactly one was given."""
    if (key is None) == (token is None):
        raise InputError("A key is needed, from one place.", "Give --key FILE or --token LABEL.")
    if key is not None:
        return KeyFile(key)
    label, _, name = str(token).partition("/")
    return TokenKey(label, name or None, module)


def open_signer(source: KeySource, passphrase: Passphrase) -> Signer:
    """Open a key for signing. The passphrase of a file, or the PIN of a token, is asked for when it is needed."""
    if isinstance(source, KeyFile):
        return read_key(source.path, passphrase)
    return open_token(source.label, source.name, source.module, passphrase)


def read_public_file(path: Path) -> str:
    """The public key in a file, in PEM: from PEM, or from a line as C2SP has it for logs and witnesses."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file.", "Take the .pub file that was made with the key.")
    with path.open("rb") as stream:
        text = stream.read(LONGEST_KEY_FILE).decode(errors="replace").strip()
    try:
        return public_pem_of(read_public_key(text)) if text.startswith("-----") else _pem_of_line(text)
    except InputError as error:
        raise InputError(f"{path}: {error.message}", error.hint) from None


NOTE_KEYS = (1, 4)
"""C2SP's numbers for Ed25519: of a log's signatures, and of a witness's cosignatures."""


def _pem_of_line(line: str) -> str:
    """`name+id+key`: the id is the beginning of a SHA-256 over name and key."""
    name, _, rest = line.partition("+")
    identifier, _, encoded = rest.partition("+")
    try:
        key = base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error):
        key = b""
    expected = hashlib.sha256(name.encode(errors="replace") + b"\n" + key).hexdigest()[:8]
    if len(key) != 33 or key[0] not in NOTE_KEYS or identifier != expected:
        raise InputError("This is no public key.", "Take the .pub file that was made with the key.")
    return public_pem_of(Ed25519PublicKey.from_public_bytes(key[1:]))


def asked_passphrase(what: str, file: Path | None = None) -> Passphrase:
    """From the file where one is named; else from the person at the terminal, without showing it."""
    if file is not None:
        return passphrase_from(file)
    return lambda: _prompt(what)


def new_passphrase(what: str, file: Path | None = None) -> str:
    """For a key that is being made: typed twice, or from the file."""
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
        raise InputError(f"{what}: nobody is at a terminal to type it.", "Give --passphrase-file.")
    return getpass.getpass(f"{what}: ")
