"""Replace persons' names by salted commitments. The salts are in one private file and can be erased."""

import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sovereign_pipeline.base.errors import ConflictError, IntegrityError, NotFoundError
from sovereign_pipeline.base.files import held_within, write_atomically
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.record import checkpoints

PREFIX = "person:"
SALT_BYTES = 32
WAIT_SECONDS = 30
COMMITMENT = re.compile(re.escape(PREFIX) + "[0-9a-f]{64}")
_SALT = re.compile(f"[0-9a-f]{{{2 * SALT_BYTES}}}")


@dataclass(frozen=True)
class People:
    settings: Settings

    @property
    def path(self) -> Path:
        return self.settings.keys / "people.json"

    def commitment_of(self, name: str) -> str:
        """Return a person's commitment. Writes a new person's name and salt to disk first."""
        with self._held():
            salts = self._read()
            if name not in salts:
                salts[name] = secrets.token_hex(SALT_BYTES)
                self._write(salts)
            return _commitment(salts[name], name)

    def known(self, name: str) -> str | None:
        salt = self._read().get(name)
        return _commitment(salt, name) if salt is not None else None

    def listed(self) -> dict[str, str]:
        """Return name -> commitment of every known person, sorted by name."""
        return {name: _commitment(salt, name) for name, salt in sorted(self._read().items())}

    def shown(self, person: str, names: Mapping[str, str] | None = None) -> str:
        """Return a person's name for display, or the start of the commitment if the name is unknown.

        Args:
            names: result of `listed`, if the caller has it already.
        """
        by_commitment = {commitment: name for name, commitment in (names or self.listed()).items()}
        return by_commitment.get(person, person_in_short(person))

    def forget(self, name: str, refuse: Callable[[str], None]) -> str:
        """Erase a person's name and salt. Returns the commitment, which can no longer be resolved. Raises NotFoundError
        for an unknown name.

        Args:
            refuse: raises an error if the commitment is still needed. No person can be added while this function runs.
        """
        with self._held():
            salts = self._read()
            if name not in salts:
                raise NotFoundError(
                    f"{self.path}: no person with this name is known.", "`sovereign people list` shows the names."
                )
            commitment = _commitment(salts[name], name)
            refuse(commitment)
            del salts[name]
            self._write(salts)
        return commitment

    @contextmanager
    def kept(self, persons: Iterable[str]) -> Iterator[None]:
        """Prevent the erasure of these persons while the context is open. Raises ConflictError if a person was already
        erased."""
        with self._held():
            known = set(self.listed().values())
            if any(COMMITMENT.fullmatch(each) and each not in known for each in persons):
                raise ConflictError("A participant's name was erased meanwhile.", "Begin again.")
            yield

    @contextmanager
    def _held(self) -> Iterator[None]:
        checkpoints.assert_private(self.settings)
        with held_within(self.path.with_suffix(".lock"), WAIT_SECONDS):
            yield

    def _read(self) -> dict[str, str]:
        try:
            descriptor = os.open(self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return {}
        with os.fdopen(descriptor, "rb") as stream:
            if stat.S_IMODE(os.fstat(descriptor).st_mode) & 0o077:
                raise IntegrityError(f"{self.path}: other accounts can read this file.", "Give it mode 0600.")
            content = stream.read()
        try:
            salts = json.loads(content)["people"]
            if not all(isinstance(name, str) and _SALT.fullmatch(salt) for name, salt in salts.items()):
                raise ValueError
        except (ValueError, KeyError, TypeError, AttributeError):
            raise IntegrityError(f"{self.path}: this file is damaged.") from None
        return dict(salts)

    def _write(self, salts: Mapping[str, str]) -> None:
        write_atomically(self.path, json.dumps({"people": salts}, ensure_ascii=False, indent=1, sort_keys=True) + "\n")


def person_in_short(person: str) -> str:
    """Return the start of a commitment, or any other text (a name from an earlier release) unchanged."""
    return f"person {person.removeprefix(PREFIX)[:12]}" if COMMITMENT.fullmatch(person) else person


def _commitment(salt: str, name: str) -> str:
    return PREFIX + hashlib.sha256(bytes.fromhex(salt) + name.encode()).hexdigest()
