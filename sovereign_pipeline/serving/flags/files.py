"""The changes of a line's flag on disk, each a directory of its own that appears whole or not at all.

`flags/LINE/00000007/` holds the flag as flagd reads it, the pipeline's signature over it, and, where an officer rolled
back, the officer's signed request. The newest number is in force; earlier ones are the journal. What belongs here:
writing and reading a change. What does not: which change a gateway has seen (`in_force.py`), and what a change says
(`publishing.py`, `rollback.py`).
"""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from sovereign_pipeline.base.errors import ConflictError, IntegrityError
from sovereign_pipeline.base.files import held_within, read_bounded
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.serving.flags.flag import Flag, document
from sovereign_pipeline.signing.bundles import LARGEST_BUNDLE, SUFFIX
from sovereign_pipeline.signing.keys import Signer
from sovereign_pipeline.signing.officers import PIPELINE
from sovereign_pipeline.signing.predicates import FLAG
from sovereign_pipeline.signing.statements import Statement, Subject, sign_statement, verify_statement
from sovereign_pipeline.signing.trust import Trust

FLAGS_FILE = "flags.json"
SIGNATURE_FILE = FLAGS_FILE + SUFFIX
REQUEST_FILE = "request" + SUFFIX
LOCK_SECONDS = 10
LARGEST_FILE = LARGEST_BUNDLE
_NUMBER = re.compile(r"[0-9]{8}")
SIGN_ANEW = "Materialize `staged_adapter` or `production_adapter` of the line: its flag is written and signed anew."


@dataclass(frozen=True)
class Change:
    """The bytes of one change, as they lie on disk."""

    sequence: int
    flags: bytes
    signature: bytes
    request: bytes | None
    """An officer's, where one rolled back."""

    @property
    def sha256(self) -> str:
        """Of the pipeline's signature, which is over everything else."""
        return hashlib.sha256(self.signature).hexdigest()


def root_of(settings: Settings) -> Path:
    return settings.home / "serving" / "flags"


def lines_with_flags(settings: Settings) -> list[str]:
    """Every line that has a flag."""
    root = root_of(settings)
    return sorted(each.name for each in root.iterdir() if each.is_dir()) if root.is_dir() else []


def sequences(settings: Settings, line: str) -> list[int]:
    """The numbers of a line's changes, ascending. A line without a directory has none, whatever its name is."""
    if line not in _names(root_of(settings)):
        return []
    return sorted(int(name) for name in _names(root_of(settings) / line) if _NUMBER.fullmatch(name))


def read_change(settings: Settings, line: str, sequence: int) -> Change:
    """The bytes of a change. Raises IntegrityError where they are not whole."""
    directory = root_of(settings) / line / f"{sequence:08d}"
    request = directory / REQUEST_FILE
    return Change(
        sequence,
        read_bounded(directory / FLAGS_FILE, LARGEST_FILE, SIGN_ANEW),
        read_bounded(directory / SIGNATURE_FILE, LARGEST_FILE, SIGN_ANEW),
        read_bounded(request, LARGEST_FILE, SIGN_ANEW) if request.exists() else None,
    )


def verified_flag(change: Change, line: str, trust: Trust, at_index: int | None = None) -> Flag:
    """The flag of a change, if the pipeline signed exactly these bytes for this line and number.

    at_index: where its entry stands in the log; None for one that has none yet, and for a gateway, which asks nobody.

    Raises IntegrityError that says what is not so.
    """
    where = f"The flag of line {line}, change {change.sequence}"
    sha256 = hashlib.sha256(change.flags).hexdigest()
    statement = verify_statement(
        change.signature, trust, PIPELINE, predicate_type=FLAG, sha256=sha256, at_index=at_index
    ).statement
    try:
        flag = Flag.model_validate_json(json.dumps(dict(statement.predicate)))
    except ValidationError:
        raise IntegrityError(f"{where}: what was signed says nothing that this release knows.", SIGN_ANEW) from None
    if (flag.line, flag.sequence) != (line, change.sequence):
        raise IntegrityError(f"{where}: it was signed as change {flag.sequence} of line {flag.line}.", SIGN_ANEW)
    if flag.request != (hashlib.sha256(change.request).hexdigest() if change.request is not None else None):
        raise IntegrityError(f"{where}: the officer's request beside it is not the one that it names.", SIGN_ANEW)
    if document(flag) != change.flags:
        raise IntegrityError(f"{where}: the file does not say what was signed.", SIGN_ANEW)
    return flag


@contextmanager
def changing(settings: Settings, line: str) -> Iterator[None]:
    """No other process changes the flag of this line meanwhile."""
    with held_within(root_of(settings) / f".{line}.lock", LOCK_SECONDS):
        yield


def write_change(settings: Settings, signer: Signer, flag: Flag, request: bytes | None = None) -> Change:
    """Sign a change and put it in force. The caller holds `changing`.

    Raises ConflictError where the number is not the next one.
    """
    there = sequences(settings, flag.line)
    if there and flag.sequence <= there[-1]:
        raise ConflictError(f"The flag of line {flag.line} has a change {there[-1]} already.", "Try again.")
    flags = document(flag)
    statement = Statement((Subject(FLAGS_FILE, hashlib.sha256(flags).hexdigest()),), FLAG, flag.model_dump(mode="json"))
    change = Change(flag.sequence, flags, sign_statement(signer, statement), request)
    directory = root_of(settings) / flag.line
    directory.mkdir(parents=True, exist_ok=True)
    for left in directory.glob(".*.new"):  # of a process that was killed
        shutil.rmtree(left)
    aside = directory / f".{flag.sequence:08d}.new"
    aside.mkdir()
    _write(aside / FLAGS_FILE, change.flags)
    _write(aside / SIGNATURE_FILE, change.signature)
    if request is not None:
        _write(aside / REQUEST_FILE, request)
    _sync(aside)
    aside.rename(directory / f"{flag.sequence:08d}")
    _sync(directory)
    return change


def _names(directory: Path) -> list[str]:
    try:
        return [each.name for each in os.scandir(directory)]
    except (FileNotFoundError, NotADirectoryError):
        return []


def _write(path: Path, content: bytes) -> None:
    with path.open("xb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
