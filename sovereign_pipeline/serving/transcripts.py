"""Store encrypted transcripts: sealed records of answers and ratings, in hourly files.

Example of a path: `SOVEREIGN_SERVING/transcripts/LINE/2026-11-27T04-0001.sealed`. The gateway has only the public key,
so it can write records but not read them. If a record of an adapter line cannot be written, the gateway rejects all
requests to this line until writing works again.
"""

import base64
import binascii
import datetime
import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from sovereign_pipeline.base.errors import PrivacyError
from sovereign_pipeline.base.files import Frozen
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.corpus.document import Message, ToolCall
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.policy.serving import Transcripts
from sovereign_pipeline.privacy.vault import fingerprint_of, read_public_key
from sovereign_pipeline.serving.high_water_marks import Digest
from sovereign_pipeline.serving.rollout.telemetry import Feedback


class Transcript(Frozen):
    kind: Literal["transcript"] = "transcript"
    given: Digest
    """Identifies the answer: a digest of the answer's id and the caller."""
    line: str
    adapter: str
    classification: str
    """Classification level of the adapter."""
    at: datetime.datetime
    messages: tuple[Message, ...]
    """Messages as the caller sent them, without the line's instruction. If the line replaces personal data in requests,
    the messages contain placeholders."""
    tools: tuple[dict[str, Any], ...] = ()
    """Tools in the request, which the model could call."""
    answer: str
    """Text of the answer. It contains the request's placeholders instead of the originals."""
    calls: tuple[ToolCall, ...] = ()
    """Tool calls in the answer."""
    originals: dict[str, str]
    """Mapping of each placeholder in the request to the caller's text that it replaced."""


class Rating(Frozen):
    """A caller's feedback on an answer. Only the newest rating of an answer counts."""

    kind: Literal["rating"] = "rating"
    given: Digest
    at: datetime.datetime
    feedback: Feedback


Record = Annotated[Transcript | Rating, Field(discriminator="kind")]
_RECORDS: TypeAdapter[Transcript | Rating] = TypeAdapter(Record)


class Sealed(Frozen):
    """An encrypted record. It can be decrypted only with the private key."""

    content: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def line(self) -> bytes:
        """Return the record as a line of a file. The line begins with a newline, so that a truncated record before it
        does not damage this one."""
        return b"\n" + base64.b64encode(self.content) + b"\n"


def seal(record: Transcript | Rating, recipient: str) -> Sealed:
    """Encrypt a record. recipient: the public key, `age1…`."""
    import pyrage

    plain = record.model_dump_json().encode()
    return Sealed(content=pyrage.encrypt(plain, [pyrage.x25519.Recipient.from_str(recipient)]))


def sealed_in(content: bytes) -> tuple[list[Sealed], int]:
    """Return the records of a file in order, and the number of invalid lines."""
    found, spoilt = [], 0
    for line in content.split(b"\n"):
        if not line:
            continue
        try:
            found.append(Sealed(content=base64.b64decode(line, validate=True)))
        except binascii.Error:
            spoilt += 1
    return found, spoilt


def unseal(sealed: Sealed, identity: Any) -> Transcript | Rating | None:
    """Decrypt a record. identity: the age private key, as a pyrage identity. Returns None if the key cannot decrypt the
    record or the record is invalid."""
    import pyrage

    try:
        return _RECORDS.validate_json(pyrage.decrypt(sealed.content, [identity]))
    except (pyrage.DecryptError, ValidationError):
        return None


SUFFIX = ".sealed"
HOUR = "%Y-%m-%dT%H"
FILES_IN_ALL = 10
"""Minimum number of full files within a line's size limit: a file takes at most 1/FILES_IN_ALL of the limit. Files are
removed as a whole, the oldest first."""
MEGABYTE = 1_000_000


@dataclass
class TranscriptFiles:
    """Writes the transcripts of an installation. Several gateways can write at the same time."""

    directory: Path
    recipient: str = ""
    """Public key; empty if no line keeps transcripts."""
    rules: Mapping[str, Transcripts] = field(default_factory=dict)
    """Mapping of each line that keeps transcripts to its rules."""
    _missed: dict[str, list[Sealed]] = field(default_factory=dict)

    def keeps(self, line: str) -> bool:
        return line in self.rules

    def keep(self, record: Transcript) -> str:
        """Encrypt and write one answer. Returns the digest of the encrypted record. If the disk fails, the record stays
        in memory until `is_whole` writes it."""
        return self._add(record.line, record)

    def rate(self, line: str, rating: Rating) -> str | None:
        """Encrypt and write feedback, and return the digest of the encrypted record. If the adapter line does not build
        preference rows from feedback, do nothing and return None."""
        return self._add(line, rating) if line in self.rules and self.rules[line].preferences else None

    def is_whole(self, line: str) -> bool:
        """Try to write a line's unwritten records. Return True if no unwritten record is left."""
        missed = self._missed.get(line, [])
        while missed:
            try:
                self._append(line, missed[0])
            except OSError:
                return False
            missed.pop(0)
        return True

    def remove_oldest(self) -> None:
        """Remove each line's files that exceed the line's limits of age and size, or the defaults for a line without
        transcripts. Raises OSError if a file cannot be removed."""
        for directory in self.directory.iterdir() if self.directory.is_dir() else ():
            self._remove_oldest(directory, self.rules.get(directory.name) or Transcripts())

    def _add(self, line: str, record: Transcript | Rating) -> str:
        sealed = seal(record, self.recipient)
        self._missed.setdefault(line, []).append(sealed)
        self.is_whole(line)
        return sealed.sha256

    def _append(self, line: str, sealed: Sealed) -> None:
        directory, rules = self.directory / line, self.rules[line]
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        path, is_new = _file_of(directory, rules, len(sealed.line))
        if is_new:
            self._remove_oldest(directory, rules, len(sealed.line))
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        with os.fdopen(handle, "wb", buffering=0) as stream:
            if stream.write(sealed.line) != len(sealed.line):
                raise OSError("the record was cut short")

    def _remove_oldest(self, directory: Path, rules: Transcripts, size_of_next: int = 0) -> None:
        """Remove files that are too old. Then remove the oldest files until one more file fits under the size limit."""
        limit = rules.megabytes * MEGABYTE
        room = max(limit / FILES_IN_ALL, size_of_next)
        files = sorted(directory.glob(f"*{SUFFIX}"))
        oldest = (_now() - datetime.timedelta(days=rules.days)).strftime(HOUR)
        size = sum(each.stat().st_size for each in files)
        for path in files:
            if path.name >= oldest and size <= limit - room:
                return
            size -= path.stat().st_size
            path.unlink(missing_ok=True)


NOTHING_KEPT = TranscriptFiles(Path(os.devnull))


def _file_of(directory: Path, rules: Transcripts, size: int) -> tuple[Path, bool]:
    """Return this hour's file for the next record of `size` bytes, and True if the file must be created."""
    hour = _now().strftime(HOUR)
    parts = sorted(directory.glob(f"{hour}-*{SUFFIX}"))
    if parts and parts[-1].stat().st_size + size <= rules.megabytes * MEGABYTE / FILES_IN_ALL:
        return parts[-1], False
    number = int(parts[-1].name.removesuffix(SUFFIX).rpartition("-")[2]) + 1 if parts else 1
    return directory / f"{hour}-{number:04d}{SUFFIX}", True


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def transcript_files(settings: Settings, institution: Institution) -> TranscriptFiles:
    """Return the transcript files of an installation. Raises PrivacyError if a line keeps transcripts and the public
    key is missing or its fingerprint differs from `serving.transcripts_key`."""
    directory, serving = settings.serving / "transcripts", institution.serving
    rules = {line: each.transcripts for line, each in serving.lines.items() if each.transcripts is not None}
    if not rules:
        return TranscriptFiles(directory)
    if not settings.transcripts_public_key.is_file():
        raise PrivacyError(
            f"{settings.transcripts_public_key}: the public key is missing, but lines keep transcripts.",
            "Generate a key pair on the machine that will decrypt transcripts, and copy the public key to this path.",
        )
    recipient = read_public_key(settings.transcripts_public_key)
    if fingerprint_of(recipient) != serving.transcripts_key:
        raise PrivacyError(
            f"{settings.transcripts_public_key}: the key's fingerprint is not the one in serving.transcripts_key.",
            "Find out who put this key there, and copy the public key from the machine that decrypts transcripts.",
        )
    return TranscriptFiles(directory, recipient, rules)
