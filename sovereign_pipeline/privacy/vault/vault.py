"""The vault of originals: what each placeholder stood for, encrypted to a public key (age).

The training side holds the public key only: it can add and never read. Reading needs the private key, which is kept
on another machine (`vault_cli.py`). Nothing here knows how identifiers are found.
"""

import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from pydantic_core import to_json

from sovereign_pipeline.errors import PrivacyError


@dataclass(frozen=True)
class MappingRow:
    """One replaced value, in the order of the text. run: fingerprint of the scrubbing, the same as in findings.json;
    row: the document's id; field: which of its fields; original: the exact characters that were cut."""

    line: str
    run: str
    case: str
    row: str
    field: str
    placeholder: str
    original: str


@dataclass(frozen=True)
class Vault:
    """directory: the vault's root. recipient: age public key, `age1…`."""

    directory: Path
    recipient: str

    @classmethod
    def at(cls, directory: Path, public_key: Path) -> "Vault":
        """The vault as the training side sees it. Raises PrivacyError when there is no usable public key."""
        return cls(directory, read_public_key(public_key))

    def add(self, line: str, rows: Iterable[MappingRow]) -> int:
        """Write one encrypted file with these rows and return their number; no rows, no file.

        The file is named by the digest of its encrypted bytes: a digest of the plain rows would let anyone who can
        list the vault test a guess.
        """
        import pyrage

        content = [to_json(vars(row)) for row in rows]
        if not content:
            return 0
        recipient = pyrage.x25519.Recipient.from_str(self.recipient)
        sealed = pyrage.encrypt(b"\n".join(content) + b"\n", [recipient])
        target = self.directory / line / f"{sha256(sealed).hexdigest()}.age"
        target.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        aside = target.with_suffix(".new")
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
            stream.write(sealed)
            stream.flush()
            os.fsync(stream.fileno())
        aside.replace(target)
        return len(content)


def read_public_key(path: Path) -> str:
    """The recipient in a public key file. Raises PrivacyError naming the command that makes one."""
    import pyrage

    remedy = (
        "On the offline machine run `sovereign-vault keygen --private FILE --public FILE` and bring the public file"
    )
    if not path.is_file():
        raise PrivacyError(f"{path}: the vault's public key is not there. {remedy} here.")
    recipient = path.read_text(encoding="utf-8", errors="replace").strip()
    try:
        pyrage.x25519.Recipient.from_str(recipient)
    except pyrage.RecipientError:
        raise PrivacyError(f"{path}: this is not an age public key (age1…). {remedy} here.") from None
    return recipient


def read_vault(directory: Path, private_key: str, line: str | None = None) -> Iterator[MappingRow]:
    """Decrypt every row of a vault, or of one line of it, file by file in the order of their names.

    Raises PrivacyError for a key that is none or does not open a file, naming the file.
    """
    import pyrage

    try:
        identity = pyrage.x25519.Identity.from_str(private_key.strip())
    except pyrage.IdentityError:
        raise PrivacyError("The key file holds no age private key (AGE-SECRET-KEY-1…). Give the private one.") from None
    for file in sorted(directory.glob(f"{line or '*'}/*.age")):
        try:
            content = pyrage.decrypt(file.read_bytes(), [identity])
            rows = [MappingRow(**json.loads(row)) for row in content.decode().splitlines()]
        except pyrage.DecryptError:
            raise PrivacyError(
                f"{file}: this key does not open the file, or its bytes were changed. Give the key whose public half "
                f"was in use when it was written, or restore the file."
            ) from None
        yield from rows
