"""Write and read the vault of original values, encrypted with age. Verify its rows against an artifact's digest.

The training machine has only the public key, so it can add rows but cannot read them. Anyone with the public key can
add invented rows. The artifact contains a digest of the genuine rows.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import ConfigDict, TypeAdapter
from pydantic_core import to_json

from sovereign_pipeline.base.errors import InputError, IntegrityError, PrivacyError
from sovereign_pipeline.base.files import file_sha256, short
from sovereign_pipeline.base.text import and_more, folded
from sovereign_pipeline.record.manifest import MANIFEST_FILE, Manifest

if TYPE_CHECKING:
    import pyrage

_LINE = re.compile(r"[a-z0-9][a-z0-9_-]*")


@dataclass(frozen=True)
class MappingRow:
    """A replaced value. The field names are the keys of the vault's JSON."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True)

    line: str
    run: str
    """Fingerprint of the scrubbing run; findings.json also contains it."""
    case: str
    row: str
    """The document's id."""
    field: str
    """Name of the document's text, as in `Document.texts`."""
    placeholder: str
    """Characters that replaced the value. They include quotation marks if the value was a number in JSON."""
    original: str
    """Exact characters that the placeholder replaced."""


_ROW = TypeAdapter(MappingRow)


@dataclass(frozen=True)
class Vault:
    """A vault on the training machine. An instance can add rows, but cannot read them."""

    directory: Path
    recipient: str
    """age public key, `age1…`."""

    @classmethod
    def at(cls, directory: Path, public_key: Path) -> "Vault":
        """Return a vault in a directory that encrypts to the public key in a file. Raises PrivacyError if the key is
        missing or invalid."""
        return cls(directory, read_public_key(public_key))

    @property
    def fingerprint(self) -> str:
        """Return the fingerprint of the public key."""
        return fingerprint_of(self.recipient)

    def add(self, line: str, rows: Iterable[MappingRow]) -> int:
        """Write the rows to one encrypted file and return their number. Without rows, no file is written.

        The file is named by the SHA-256 of its encrypted bytes. A digest of the plain rows would not be safe: anyone
        who can list the vault could test guesses of the rows.
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
    """Return the age recipient in a public key file. Raises PrivacyError if the file is missing or invalid."""
    import pyrage

    remedy = "Generate a key pair on the offline machine, and copy the public key to this path."
    error = partial(PrivacyError, act="make_vault_key", private=f"{path.parent}-offline/vault.key", public=str(path))
    if not path.is_file():
        raise error(f"{path}: the vault's public key is missing.", remedy)
    recipient = path.read_text(encoding="utf-8", errors="replace").strip()
    try:
        pyrage.x25519.Recipient.from_str(recipient)
    except pyrage.RecipientError:
        raise error(f"{path}: this is not an age public key (age1…).", remedy) from None
    return recipient


def fingerprint_of(recipient: str) -> str:
    """Return the SHA-256 (64 hex digits) of a public key, as institution.yaml and artifacts state it."""
    return sha256(recipient.encode()).hexdigest()


def public_key_of(private_key: str) -> str:
    """Return the public key of a private key. Raises PrivacyError for an invalid private key."""
    return str(_identity(private_key).to_public())


def read_vault(
    directory: Path, private_key: str, line: str | None = None, unopened: list[Path] | None = None
) -> Iterator[tuple[Path, list[MappingRow]]]:
    """Decrypt a vault, or one line of adapters in it, and yield each file with its rows, in order of file name.

    Args:
        unopened: list to which the files are added that the key does not decrypt, such as files from before a key
            change. If None, such a file raises PrivacyError.

    Raises PrivacyError if the private key is invalid, or if a decrypted file contains anything but rows. Raises
    InputError if `line` cannot be the name of a line.
    """
    import pyrage

    identity = _identity(private_key)
    if line is not None and _LINE.fullmatch(line) is None:
        raise InputError(f"'{line[:60]}' cannot be the name of a line.", "Use the name of a folder in the vault.")
    for file in sorted(directory.glob(f"{line or '*'}/*.age")):
        try:
            content = pyrage.decrypt(file.read_bytes(), [identity])
        except pyrage.DecryptError:
            if unopened is not None:
                unopened.append(file)
                continue
            raise PrivacyError(
                f"{file}: this key does not open the file, or the file's bytes were changed.",
                "Use the private key that matches the file's public key, or restore the file from a backup.",
            ) from None
        # Split at newlines only: an original may contain other separators, such as U+2028.
        try:
            yield file, [_ROW.validate_json(each) for each in content.split(b"\n") if each]
        except ValueError:
            raise PrivacyError(
                f"{file}: the file contains something other than rows of a mapping. Nothing is shown.",
                "Find out who wrote to the vault, and move the file elsewhere.",
            ) from None


def _identity(private_key: str) -> "pyrage.x25519.Identity":
    import pyrage

    try:
        return pyrage.x25519.Identity.from_str(private_key.strip())
    except pyrage.IdentityError:
        raise PrivacyError(
            "The key file contains no age private key (AGE-SECRET-KEY-1…).",
            "Use the file with the private key that `sovereign-vault keygen` wrote.",
        ) from None


FINDINGS = "findings.json"
PUBLIC_KEY = "vault_public_key"
"""Key in a manifest's `recorded` facts. Its value is the fingerprint of the vault's public key."""


class MappingDigest:
    """A digest over all rows of a mapping. Each row counts once, and the order of the rows does not matter.

    An attacker who has the digest cannot test a guess of a single value, only a guess of all values of the corpus
    together. The digest of the classified corpus reveals as much. Pass all rows of a case to the same call of `add`.
    """

    def __init__(self) -> None:
        self._cases: set[bytes] = set()

    def add(self, rows: Iterable[MappingRow]) -> None:
        cases: dict[str, set[bytes]] = {}
        for row in rows:
            cases.setdefault(folded(row.case), set()).add(to_json(vars(row)))
        self._cases |= {sha256(b"\n".join(sorted(content))).digest() for content in cases.values()}

    @property
    def value(self) -> str:
        return sha256(b"".join(sorted(self._cases))).hexdigest()


@dataclass(frozen=True)
class StatedMapping:
    """A scrubbed corpus's facts about the mapping of its placeholders to originals."""

    artifact: str
    """Digest of the scrubbed corpus."""
    run: str
    """Fingerprint of the scrubbing run, which is also stored in each of the run's rows in the vault."""
    mapping_sha256: str
    public_key: str | None
    """Fingerprint of the public key to which the originals were encrypted."""

    @classmethod
    def of(cls, directory: Path) -> "StatedMapping":
        """Read the facts from the directory of a scrubbed corpus, or from a directory with copies of its manifest and
        `findings.json`.

        The directory's name must be the artifact's digest. Raises IntegrityError if the artifact was changed, and
        InputError if the artifact is not a scrubbed corpus.
        """
        manifest = Manifest.from_file(directory / MANIFEST_FILE)
        if manifest.digest != directory.resolve().name:
            raise IntegrityError(
                f"{directory}: the manifest in this directory belongs to artifact {short(manifest.digest)}.",
                "Copy the artifact's directory again. Its name must be the artifact's complete digest.",
            )
        recorded = {entry.path: entry.sha256 for entry in manifest.files}.get(FINDINGS)
        if recorded is None:
            raise InputError(
                f"{directory}: this is a {manifest.kind}, not a scrubbed_corpus.",
                "Use the directory of the line's scrubbed_corpus.",
            )
        if not (directory / FINDINGS).is_file() or file_sha256(directory / FINDINGS) != recorded:
            raise IntegrityError(
                f"{directory / FINDINGS}: the file is missing, or its SHA-256 differs from the manifest.",
                "Copy the file again from the artifact's directory in the store.",
            )
        findings = json.loads((directory / FINDINGS).read_bytes())
        return cls(
            manifest.digest,
            findings["run"],
            findings["mapping_sha256"],
            manifest.circumstances.recorded.get(PUBLIC_KEY),
        )

    def check_key(self, fingerprint: str) -> None:
        """Raise PrivacyError unless the mapping was encrypted to the public key with this fingerprint."""
        if self.public_key != fingerprint:
            raise PrivacyError(
                f"The originals of artifact {short(self.artifact)} were encrypted to the public key {self.public_key}, "
                f"but this private key belongs to the public key {fingerprint}.",
                "Use the private key that belongs to the artifact's public key. If your institution did not make the "
                "artifact's key, the person who planted the key can read the originals.",
            )

    def check_rows(self, by_file: Mapping[Path, Sequence[MappingRow]], unopened: Sequence[Path] = ()) -> None:
        """Raise PrivacyError unless the run's rows in all files together match the digest that the artifact states. The
        message names the files that the key did not decrypt (`unopened`)."""
        own = {file: [row for row in rows if row.run == self.run] for file, rows in by_file.items()}
        own = {file: rows for file, rows in own.items() if rows}
        if _digest(own.values()) == self.mapping_sha256:
            return
        foreign = [
            file for file in own if _digest(rows for other, rows in own.items() if other != file) == self.mapping_sha256
        ]
        which = f"{foreign[0]} does not belong to the mapping" if foreign else f"rows of {len(own)} files were compared"
        if unopened and not foreign:
            which += f", and the key does not open {and_more(map(str, unopened))}"
        raise PrivacyError(
            f"The mapping of artifact {short(self.artifact)} in the vault is not the one that the artifact states: "
            f"{which}. Nothing is shown.",
            "Find out who wrote to the vault. Move the foreign file out of the vault, or restore the missing file.",
        )


def _digest(rows_of_files: Iterable[Sequence[MappingRow]]) -> str:
    digest = MappingDigest()
    digest.add(chain.from_iterable(rows_of_files))
    return digest.value
