"""Protect a gateway against rollback: store the newest trust root, flags and ledger size that it has accepted.

The high-water marks are stored in the gateway's own directory, outside SOVEREIGN_HOME. An account that can write to
SOVEREIGN_HOME could restore older files there. The ledger shows only which trust root was valid at its last entry. If
an account restores this root after a newer one was published and before the next entry, only the high-water marks
detect it.
"""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, ValidationError

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.files import Frozen, held_within, private_directory, write_atomically
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.record.officers import TRUST
from sovereign_pipeline.record.trust_root import Trust, load_trust

FILE = "high-water-marks.json"
LOCK_SECONDS = 5

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class FlagMark(Frozen):
    """A change of a line's flag, identified by number and digest."""

    sequence: int
    sha256: Digest

    def is_older_than(self, other: "FlagMark") -> bool:
        """Return True if this change has a smaller number than `other`, or the same number and a different digest."""
        return self.sequence < other.sequence or (self.sequence == other.sequence and self.sha256 != other.sha256)


class _Marks(Frozen):
    root_sha256: Digest | None = None
    """SHA-256 of the first version of the trust root. A trust root with a different first version is accepted only if
    the ledger contains it."""
    root_version: int = 1
    targets_version: int = 1
    flags: dict[str, FlagMark] = Field(default={})
    entries: int = Field(default=0, ge=0)
    """Number of ledger entries at the last verification of adapters."""
    entries_root: Digest | None = None
    """Root hash of the ledger at the last verification of adapters. A forked ledger has a different root hash."""


class HighWaterMarks:
    """The newest versions of the trust root, the flags and the ledger that the gateways of this directory have
    accepted. Older versions are rejected."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def of(cls, settings: Settings) -> Self:
        return cls(settings.serving / FILE)

    def trust(self, settings: Settings) -> Trust:
        """Load the trust root. Raises IntegrityError if its first version differs from the accepted first version, or
        if its newest version is older than the accepted one."""
        marks = self._read()
        at_least = (marks.root_version, marks.targets_version)
        return load_trust(settings.data / TRUST, marks.root_sha256, at_least=at_least)

    def accept_trust(self, trust: Trust, *, is_on_record: bool) -> None:
        """Save this trust root as the newest. Raises IntegrityError if it is older than the accepted one.

        is_on_record: True if the ledger contains this trust root. If False, IntegrityError is also raised if the root's
            first version differs from the accepted one.
        """
        with self._changing() as marks:
            _assert_follows(trust, marks, may_be_another=is_on_record)
            self._write(marks, _marked(marks, trust))

    def flag(self, line: str) -> FlagMark | None:
        """Return the newest accepted change of a line's flag; None if no change was accepted."""
        return self._read().flags.get(line)

    def accept_flag(self, line: str, mark: FlagMark, trust: Trust) -> None:
        """Save a line's flag, and the trust root that verified it, as the newest. Raises IntegrityError if this trust
        root is older than the accepted one or has a different first version."""
        with self._changing() as marks:
            _assert_follows(trust, marks)
            self._write(marks, _marked(marks, trust).model_copy(update={"flags": {**marks.flags, line: mark}}))

    @property
    def ledger(self) -> tuple[int, str | None]:
        """Return the ledger's size and root hash when adapters were verified last; (0, None) if they never were."""
        marks = self._read()
        return marks.entries, marks.entries_root

    def accept_entries(self, entries: int, root: str) -> None:
        """Save this number of ledger entries with their root hash, unless a larger number is saved."""
        with self._changing() as marks:
            if entries >= marks.entries:
                self._write(marks, marks.model_copy(update={"entries": entries, "entries_root": root}))

    @contextlib.contextmanager
    def _changing(self) -> Iterator[_Marks]:
        """Lock the high-water marks against other gateways and yield them."""
        with held_within(self._path.with_name(f"{self._path.name}.lock"), LOCK_SECONDS):
            yield self._read()

    def _write(self, before: _Marks, after: _Marks) -> None:
        if after != before:
            write_atomically(self._path, json.dumps(after.model_dump(mode="json"), indent=1) + "\n")

    def _read(self) -> _Marks:
        try:
            return _Marks.model_validate_json(self._path.read_bytes())
        except FileNotFoundError:
            return _Marks()
        except (OSError, ValidationError):
            raise IntegrityError(
                f"{self._path}: the file with the accepted trust root, flags and ledger size cannot be read.",
                "Find out who changed the file. If you delete it, an older trust root, flag or ledger goes unnoticed.",
            ) from None


def serving_directory(settings: Settings) -> Path:
    """Return the gateway's own directory, creating it if needed. Raises InputError if another account can enter it."""
    return private_directory(settings.serving, "the gateway's tokens")


def _marked(marks: _Marks, trust: Trust) -> _Marks:
    versions = {"root_version": trust.root_version, "targets_version": trust.targets_version}
    return marks.model_copy(update={"root_sha256": trust.root_sha256, **versions})


def _assert_follows(trust: Trust, marks: _Marks, *, may_be_another: bool = False) -> None:
    if marks.root_sha256 not in (None, trust.root_sha256):
        if may_be_another:
            return
        raise IntegrityError(
            f"The first version of this trust root has the SHA-256 {trust.root_sha256}. The first version that this "
            f"gateway accepted has the SHA-256 {marks.root_sha256}.",
            "Start the registry's database: the ledger shows which first version is valid.",
        )
    if trust.root_version < marks.root_version or trust.targets_version < marks.targets_version:
        raise IntegrityError(
            f"This trust root (root {trust.root_version}, targets {trust.targets_version}) is older than root "
            f"{marks.root_version} and targets {marks.targets_version}, which this gateway accepted before.",
            "Somebody restored an older trust root. Copy the newest trust root again.",
        )
