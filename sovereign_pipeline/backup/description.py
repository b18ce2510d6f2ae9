"""What is known of a backup without its key: when it was taken, of which ledger, and that the pipeline signed it.

Anybody who has the public key could encrypt something to it, so the SHA-256 of the archive is signed. What belongs
here: `backup.json` and its signature. What does not: the archive (`archive.py`).
"""

from pathlib import Path

from pydantic import ValidationError

from sovereign_pipeline.base.errors import InputError, IntegrityError
from sovereign_pipeline.base.files import canonical_json, file_sha256, read_bounded
from sovereign_pipeline.base.frozen import Frozen
from sovereign_pipeline.record.keys import Signer
from sovereign_pipeline.record.notes import TreeHead, parse_note, parse_tree_head
from sovereign_pipeline.record.officers import PIPELINE
from sovereign_pipeline.record.statements import (
    BACKUP,
    LARGEST_BUNDLE,
    Statement,
    Subject,
    sign_statement,
    verify_statement,
)
from sovereign_pipeline.record.trust_root import Trust

ARCHIVE, DESCRIPTION, SIGNATURE = "backup.tar.age", "backup.json", "backup.json.sigstore.json"
AGAIN = "Use another backup, and find out who changed this one."


class Description(Frozen):
    """The content of `backup.json`."""

    format: int = 1
    created: str
    """UTC, ISO 8601."""
    archive: str
    """SHA-256 of the encrypted archive."""
    files: int
    checkpoint: str
    """The signed checkpoint of the ledger in it."""

    @property
    def head(self) -> TreeHead:
        """What the checkpoint says. Raises IntegrityError for what is none."""
        return parse_tree_head(parse_note(self.checkpoint).text)


def write(directory: Path, description: Description, signer: Signer) -> None:
    content = canonical_json(description.model_dump()) + b"\n"
    (directory / DESCRIPTION).write_bytes(content)
    subject = Subject(DESCRIPTION, file_sha256(directory / DESCRIPTION))
    about = {"archive": description.archive, "checkpoint": description.checkpoint}
    (directory / SIGNATURE).write_bytes(sign_statement(signer, Statement((subject,), BACKUP, about)))


def read(directory: Path, trust: Trust) -> Description:
    """Read and verify, with every byte of the archive. Raises IntegrityError."""
    content = read_bounded(directory / DESCRIPTION, LARGEST_BUNDLE, AGAIN)
    try:
        description = Description.model_validate_json(content)
        index = description.head.size  # a key that was replaced since counts for what it signed before
    except (ValidationError, InputError):
        raise IntegrityError(f"{directory / DESCRIPTION}: this describes no backup.", AGAIN) from None
    signature = read_bounded(directory / SIGNATURE, LARGEST_BUNDLE, AGAIN)
    sha256 = file_sha256(directory / DESCRIPTION)
    verify_statement(signature, trust, PIPELINE, predicate_type=BACKUP, sha256=sha256, at_index=index)
    archive = directory / ARCHIVE
    if archive.is_symlink() or not archive.is_file() or file_sha256(archive) != description.archive:
        raise IntegrityError(f"{archive}: these are not the bytes of the backup.", AGAIN)
    return description
