"""Write and read a backup's encrypted archive and its signed description.

The archive is a tar stream, encrypted with an age key while it is written. The last member of the stream lists every
file with its SHA-256. The pipeline signs the archive's SHA-256, because anyone with the public key could encrypt an
archive.
"""

import hashlib
import io
import json
import os
import tarfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, BinaryIO, cast

from pydantic import ValidationError

from sovereign_pipeline.base.errors import InputError, IntegrityError, PrivacyError
from sovereign_pipeline.base.files import BLOCK, Frozen, canonical_json, file_sha256, read_bounded
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

if TYPE_CHECKING:
    from pyrage.x25519 import Identity

LIST = "files.json"
LARGEST_LIST = 1 << 30


class DamagedBackup(IntegrityError):
    """Raised when a backup differs from its signed description, or cannot be read."""

    usual_hint = "Use another backup, and find out what changed this one."


@dataclass(frozen=True)
class Listed:
    name: str
    size: int
    sha256: str


class Archive:
    """An archive that is being written."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self._tar = tar
        self.listed: list[Listed] = []

    def add(self, name: str, path: Path) -> None:
        """Add a file with the bytes that it has now. Bytes that are appended during the copying are left out. Raises
        OSError if reading fails."""
        with path.open("rb") as stream:
            status = os.fstat(stream.fileno())
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.mtime = status.st_size, 0o600, int(status.st_mtime)
            hashing = _Hashing(stream)
            self._tar.addfile(member, cast(IO[bytes], hashing))
        self.listed.append(Listed(name, member.size, hashing.sha256.hexdigest()))

    def close(self) -> None:
        content = canonical_json([vars(each) for each in self.listed])
        member = tarfile.TarInfo(LIST)
        member.size, member.mode = len(content), 0o600
        self._tar.addfile(member, io.BytesIO(content))


class _Hashing:
    """A stream that computes the SHA-256 of the bytes read from it."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.sha256 = hashlib.sha256()

    def read(self, size: int = -1) -> bytes:
        block = self._stream.read(size)
        self.sha256.update(block)
        return block


@contextmanager
def written(path: Path, recipient: str) -> Iterator[Archive]:
    """Create a new file and yield an archive that is encrypted into the file with a public key (age1…)."""
    import pyrage

    key = pyrage.x25519.Recipient.from_str(recipient)
    with (
        path.open("xb") as to,
        _piped(lambda plain: pyrage.encrypt_io(plain, to, [key]), "rb", "wb") as stream,
        tarfile.open(fileobj=stream, mode="w|", format=tarfile.PAX_FORMAT, bufsize=BLOCK) as tar,
    ):
        archive = Archive(tar)
        yield archive
        archive.close()


def read(path: Path, sha256: str, private_key: str, take: Callable[[Listed, Iterator[bytes]], None]) -> list[Listed]:
    """Read an archive from start to end, compare its files with the list at its end, and return the list.

    Args:
        sha256: signed SHA-256 of the encrypted archive. `read` verifies this digest, because the archive may have
            changed after an earlier verification.
        take: function that is called with each file and the file's bytes in blocks, **before** the list is verified.
            Use its results only after `read` returns. Its argument `Listed` has an empty digest.

    Raises PrivacyError if the key does not decrypt the archive, and IntegrityError if the archive is damaged.
    """
    import pyrage

    try:
        identity = pyrage.x25519.Identity.from_str(private_key.strip())
    except pyrage.IdentityError:
        raise PrivacyError(
            "The key file contains no age private key (AGE-SECRET-KEY-1…).",
            "Name the file that contains the private key.",
        ) from None
    found: list[Listed] = []
    content = b""
    try:
        with (
            path.open("rb") as opened,
            _piped(lambda to: _decrypted(opened, to, identity, sha256), "wb", "rb") as plain,
            tarfile.open(fileobj=plain, mode="r|", bufsize=BLOCK) as tar,
        ):
            for member in tar:
                stream = tar.extractfile(member) if member.isreg() else None
                if stream is None or content:
                    raise DamagedBackup(f"{path}: {member.name!a} does not belong in a backup.")
                if member.name == LIST:
                    content = stream.read(LARGEST_LIST)
                else:
                    found.append(_taken(member, stream, take))
    except pyrage.DecryptError:
        raise PrivacyError(
            f"{path}: this key does not decrypt the backup.", "Use the private key of this backup."
        ) from None
    except (tarfile.TarError, OSError, EOFError, ValueError, RecursionError) as error:  # also invalid file names
        raise DamagedBackup(f"{path}: the archive cannot be read ({type(error).__name__}).") from None
    try:
        listed = [Listed(**each) for each in json.loads(content)]
    except (ValueError, TypeError, RecursionError):
        raise DamagedBackup(f"{path}: the list of files at the end of the archive is missing.") from None
    if found != listed or len({each.name for each in listed}) != len(listed):
        raise DamagedBackup(f"{path}: the archive's files differ from the list at its end.")
    return listed


def _decrypted(sealed: BinaryIO, to: BinaryIO, identity: "Identity", sha256: str) -> None:
    """Decrypt `sealed` into `to`. At the end, raise DamagedBackup if the SHA-256 of `sealed` is not `sha256`."""
    import pyrage

    hashing = _Hashing(sealed)
    pyrage.decrypt_io(hashing, to, [identity])
    while hashing.read(BLOCK):
        pass
    if hashing.sha256.hexdigest() != sha256:
        raise DamagedBackup("The backup's archive changed after it was verified: its SHA-256 is not the signed one.")


def _taken(member: tarfile.TarInfo, stream: IO[bytes], take: Callable[[Listed, Iterator[bytes]], None]) -> Listed:
    hasher = hashlib.sha256()

    def blocks() -> Iterator[bytes]:
        while block := stream.read(BLOCK):
            hasher.update(block)
            yield block

    rest = blocks()
    take(Listed(member.name, member.size, ""), rest)
    for _ in rest:  # bytes that `take` did not read are hashed as well
        pass
    return Listed(member.name, member.size, hasher.hexdigest())


@contextmanager
def _piped(work: Callable[[Any], None], theirs: str, ours: str) -> Iterator[IO[bytes]]:
    """Yield one end of a pipe while a thread encrypts or decrypts at the other end. If the thread fails, its error is
    raised after the `with` block."""
    reading, writing = os.pipe()
    ends = {"rb": reading, "wb": writing}
    errors: list[BaseException] = []

    def run() -> None:
        try:
            with os.fdopen(ends[theirs], theirs) as end:
                work(end)
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=run, name="age")
    thread.start()
    try:
        with os.fdopen(ends[ours], ours) as end:
            yield cast(IO[bytes], end)
            while ours == "rb" and end.read(BLOCK):  # read to the end, because otherwise the writer gets a broken pipe
                pass
    except (OSError, EOFError, tarfile.TarError):
        thread.join()
        if errors and not isinstance(errors[0], BrokenPipeError):
            raise errors[0] from None  # the reason why the pipe ended
        raise
    finally:
        thread.join()
    if errors:
        raise errors[0]


def recipient_in(path: Path) -> str:
    """Read an age public key from a file. Raises InputError if the file contains none."""
    import pyrage

    text = path.read_text(encoding="utf-8", errors="replace").strip() if path.is_file() else ""
    try:
        pyrage.x25519.Recipient.from_str(text)
    except pyrage.RecipientError:
        raise InputError(
            f"{path}: this is not an age public key (age1…).",
            "Generate a key pair on an offline machine, and copy its public file here.",
            act="make_vault_key",
            private="FILE",
            public=str(path),
        ) from None
    return text


ARCHIVE, DESCRIPTION, SIGNATURE = "backup.tar.age", "backup.json", "backup.json.sigstore.json"


class Description(Frozen):
    format: int = 1
    created: str
    """UTC time of the backup, ISO 8601."""
    archive: str
    """SHA-256 of the encrypted archive."""
    files: int
    checkpoint: str
    """Signed checkpoint of the backup's ledger."""

    @property
    def head(self) -> TreeHead:
        """Size and root of the ledger, from the checkpoint. Raises IntegrityError if the checkpoint is malformed."""
        return parse_tree_head(parse_note(self.checkpoint).text)


def write(directory: Path, description: Description, signer: Signer) -> None:
    content = canonical_json(description.model_dump()) + b"\n"
    (directory / DESCRIPTION).write_bytes(content)
    subject = Subject(DESCRIPTION, file_sha256(directory / DESCRIPTION))
    about = {"archive": description.archive, "checkpoint": description.checkpoint}
    (directory / SIGNATURE).write_bytes(sign_statement(signer, Statement((subject,), BACKUP, about)))


def read_description(directory: Path, trust: Trust) -> Description:
    """Read and return a backup's description. Raises IntegrityError if the signature or a byte of the archive is wrong,
    or if the folder has other files."""
    content = read_bounded(directory / DESCRIPTION, LARGEST_BUNDLE, DamagedBackup.usual_hint)
    try:
        description = Description.model_validate_json(content)
        index = description.head.size  # a key that is replaced after this entry stays valid for this signature
    except (ValidationError, InputError):
        raise DamagedBackup(f"{directory / DESCRIPTION}: this is not a backup's description.") from None
    signature = read_bounded(directory / SIGNATURE, LARGEST_BUNDLE, DamagedBackup.usual_hint)
    sha256 = file_sha256(directory / DESCRIPTION)
    verify_statement(signature, trust, PIPELINE, predicate_type=BACKUP, sha256=sha256, at_index=index)
    archive = directory / ARCHIVE
    if archive.is_symlink() or not archive.is_file() or file_sha256(archive) != description.archive:
        raise DamagedBackup(f"{archive}: its SHA-256 differs from the signed one.")
    if extra := sorted({path.name for path in directory.iterdir()} - {ARCHIVE, DESCRIPTION, SIGNATURE}):
        raise DamagedBackup(f"{directory}: the folder may contain only signed files, but {extra[0]!a} was not signed.")
    return description
