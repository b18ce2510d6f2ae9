"""The mapping of one scrubbing as its artifact states it: a digest, and the key that it was sealed to.

Whoever has the public key can seal rows of their own invention beside the true ones. The artifact is what shows which
are true. What belongs here: the digest, what an artifact states, and comparing rows with it. What does not: sealing and
opening (`vault.py`), making the artifact (`privacy/stages.py`).
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from pathlib import Path

from pydantic_core import to_json

from sovereign_pipeline.artifacts.manifest import MANIFEST_FILE, Manifest
from sovereign_pipeline.base.errors import InputError, IntegrityError, PrivacyError
from sovereign_pipeline.base.files import file_sha256, short
from sovereign_pipeline.corpus.folding import folded
from sovereign_pipeline.privacy.vault.vault import MappingRow

FINDINGS = "findings.json"
PUBLIC_KEY = "vault_public_key"
"""Name of the public key's fingerprint among a manifest's recorded facts."""


class MappingDigest:
    """A digest over all rows of a mapping, each counted once, in whatever order they come.

    It helps nobody to guess: only a guess at every value of the corpus at once can be tested, as it can against the
    digest of the classified corpus. Rows of one case must be added together, or the case twice as a whole.
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
    """What a scrubbed corpus states about its mapping."""

    artifact: str
    """Digest of the artifact."""
    run: str
    """Fingerprint under which its originals are in the vault."""
    mapping_sha256: str
    public_key: str | None
    """Fingerprint of the key that they were sealed to; None where the artifact was made by an early release."""

    @classmethod
    def of(cls, directory: Path) -> "StatedMapping":
        """Read from the directory of a scrubbed corpus, or from a copy of its manifest and `findings.json` alone.

        The directory's name must be the artifact's digest, as ledger and records have it. Raises IntegrityError for
        one that was changed, and InputError for another kind of artifact or one that states nothing.
        """
        manifest = Manifest.from_file(directory / MANIFEST_FILE)
        if manifest.digest != directory.resolve().name:
            raise IntegrityError(
                f"{directory}: the manifest there is that of artifact {short(manifest.digest)}.",
                "Copy the artifact's directory again, under its whole digest.",
            )
        recorded = {entry.path: entry.sha256 for entry in manifest.files}.get(FINDINGS)
        if recorded is None:
            raise InputError(f"{directory}: this is a {manifest.kind}.", "Name the line's scrubbed_corpus.")
        if not (directory / FINDINGS).is_file() or file_sha256(directory / FINDINGS) != recorded:
            raise IntegrityError(
                f"{directory / FINDINGS}: the file is missing, or its bytes are not the recorded ones.",
                "Copy it again.",
            )
        findings = json.loads((directory / FINDINGS).read_bytes())
        if "mapping_sha256" not in findings:
            raise InputError(
                f"{directory}: this artifact was made before artifacts stated their mapping, so no row of the vault "
                f"can be compared with it.",
                "Have its line run again, or show the rows with --unchecked.",
            )
        return cls(
            manifest.digest,
            findings["run"],
            findings["mapping_sha256"],
            manifest.circumstances.recorded.get(PUBLIC_KEY),
        )

    def check_key(self, fingerprint: str) -> None:
        """Raise PrivacyError when the mapping was sealed to another key. fingerprint: of one's own public key."""
        if self.public_key not in (None, fingerprint):
            raise PrivacyError(
                f"Artifact {short(self.artifact)} was sealed to the public key {self.public_key}, and this private key "
                f"belongs to {fingerprint}.",
                "Give the other private key. If nobody here made that key, somebody swapped it: the originals went to "
                "them.",
            )

    def check_rows(self, by_file: Mapping[Path, Sequence[MappingRow]]) -> None:
        """Raise PrivacyError unless the rows of this run in all files are exactly those that the artifact states."""
        own = {file: [row for row in rows if row.run == self.run] for file, rows in by_file.items()}
        own = {file: rows for file, rows in own.items() if rows}
        if _digest(own.values()) == self.mapping_sha256:
            return
        foreign = [
            file for file in own if _digest(rows for other, rows in own.items() if other != file) == self.mapping_sha256
        ]
        which = f"{foreign[0]} is not of it" if foreign else f"rows of {len(own)} files were compared"
        raise PrivacyError(
            f"The mapping of artifact {short(self.artifact)} in the vault is not the one that the artifact states: "
            f"{which}. Nothing is shown.",
            "Find out who wrote to the vault. Move the foreign file out of it, or restore the one that is missing.",
        )


def _digest(rows_of_files: Iterable[Sequence[MappingRow]]) -> str:
    digest = MappingDigest()
    digest.add(chain.from_iterable(rows_of_files))
    return digest.value
