"""Check the permissions of officers and the pipeline, and verify officers' signed acts. Replace persons' names by
salted commitments. Names and salts are in one private file, from which a person can be erased."""

import hashlib
import json
import os
import re
import secrets
import stat
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sovereign_pipeline.base.errors import ConflictError, InputError, IntegrityError, NotFoundError, SignInError
from sovereign_pipeline.base.files import held_within, write_atomically
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.record import checkpoints
from sovereign_pipeline.record.keys import Signer, read_key
from sovereign_pipeline.record.statements import Verified, verify_statement
from sovereign_pipeline.record.trust_root import Trust, TrustedKey, load_trust, refuse_expired

OFFICER, PIPELINE = "officer", "pipeline"
PIPELINE_KEY_FILE = "pipeline.key"
TRUST = "trust"
"""Directory of the trust root under `data/`."""
KEY_ID = re.compile(r"[0-9a-f]{64}")


Stamp = tuple[tuple[str, int, int, int, int], ...]
"""Name, inode, size and times (of modification and of the last status change) of each file in a directory."""

_read: dict[Path, tuple[Stamp, Trust]] = {}
"""Cache that maps a directory to the stamp of its files and to the verified trust root. Opening an artifact requires
the trust root each time."""


def trust_root(settings: Settings) -> Trust:
    """Return the institution's verified trust root. Its files are read again only if one of them changed. Raises
    NotFoundError if there is no trust root, and IntegrityError if it is invalid or expired."""
    directory = settings.data / TRUST
    if not directory.is_dir():
        raise NotFoundError(
            f"{directory}: there is no trust root, so nothing can be signed or verified.",
            act="make_trust_root",
            trust=str(directory),
            keys=str(settings.keys),
        )
    stamp = _stamp(directory)
    known = _read.get(directory)
    if known is not None and known[0] == stamp:
        refuse_expired(known[1], datetime.now(UTC), str(directory))
        return known[1]
    trust = load_trust(directory)
    _read[directory] = (stamp, trust)
    return trust


def _stamp(directory: Path) -> Stamp:
    with os.scandir(directory) as entries:
        found = sorted((entry.name, entry.stat(follow_symlinks=False)) for entry in entries)
    return tuple((name, each.st_ino, each.st_size, each.st_mtime_ns, each.st_ctime_ns) for name, each in found)


def officer_of(trust: Trust, keyid: str) -> TrustedKey:
    """Return the officer's key with this id. Raises IntegrityError if the key does not have the role `officer` in the
    trust root, and SignInError if the key is revoked."""
    key = trust.key(OFFICER, keyid)
    if not trust.counts(OFFICER, keyid, None):
        raise SignInError(f"The key of {key.person} is revoked.", "Use the replacement key.")
    return key


def pipeline_signer(settings: Settings, trust: Trust) -> Signer:
    """Return the pipeline's key, which signs this installation's artifacts and acts. Raises NotFoundError if the key
    file is missing, InputError if the file is malformed or open to other accounts, IntegrityError if the trust root
    does not list the key, and SignInError if the key is revoked."""
    path = settings.keys / PIPELINE_KEY_FILE
    if not path.exists():
        raise NotFoundError(
            f"{path}: the pipeline's key is missing, so nothing can be signed or built.",
            "Run this as the account that can read the key, or store the key in the directory SOVEREIGN_KEYS.",
        )
    signer = read_key(path, lambda: "")
    trust.key(PIPELINE, signer.keyid)
    if not trust.counts(PIPELINE, signer.keyid, None):
        raise SignInError(
            f"{path}: this pipeline key is revoked, so nothing is built.", "Replace the file by the new key."
        )
    return signer


def actor_of(keyid: str) -> str:
    """Return an officer's actor name in the ledger. It contains only the key's id, because the ledger cannot be
    erased."""
    return f"officer:{keyid}"


def assert_may(officer: TrustedKey, act: str, levels: Iterable[str]) -> None:
    """Raise SignInError unless the trust root gives the officer the permission `act` at each of these levels."""
    for level in sorted(set(levels)):
        if not officer.allows(act, level):
            raise SignInError(
                f"The trust root does not give {officer.person} the permission '{act}' at {level}.",
                "Ask an officer who has this permission.",
            )


def verify_act(
    bundle: bytes,
    trust: Trust,
    act: str,
    levels: Iterable[str],
    *,
    predicate_type: str,
    sha256: str,
    at_index: int | None,
) -> Verified:
    """Verify an officer's signed act, and return the signed statement with the officer's key. Raises IntegrityError if
    the signature is invalid, or if the officer lacks the permission at one of the levels.

    Args:
        act: the permission that the officer needs in the trust root.
        sha256: SHA-256 of the file that the statement must be about.
        at_index: ledger index of the act's entry, which decides whether the key is revoked. None if there is no entry
            yet.
    """
    verified = verify_statement(bundle, trust, OFFICER, predicate_type=predicate_type, sha256=sha256, at_index=at_index)
    for level in sorted(set(levels)):
        if not verified.key.allows(act, level):
            raise IntegrityError(
                f"{verified.key.person} signed this act without the permission '{act}' at {level}.",
                "Have an officer with this permission repeat the act.",
            )
    return verified


def officer_shown(trust: Trust | None, officer: str) -> str:
    """Return the name of the officer with this key id, or the start of the id if the trust root does not list the
    key."""
    known = {key.keyid: key.person for key in trust.keys(OFFICER)} if trust is not None else {}
    return known.get(officer) or officer_in_short(officer)


def officer_in_short(officer: str) -> str:
    """Return the start of an officer's key id, for files that cannot be erased."""
    return f"key {officer[:12]}"


def trust_root_if_any(settings: Settings) -> Trust | None:
    return trust_root(settings) if (settings.data / TRUST).is_dir() else None


REORDERS = frozenset({"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"})
"""Unicode bidirectional classes of characters that change the display order of text."""


def officers_words(words: str, what: str) -> str:
    """Join an officer's text into one line. Raises InputError if the text is empty or contains invisible characters.

    Args:
        what: subject of the error message, such as `A recall`.
    """
    said = on_one_line(words)
    if not said:
        raise InputError(f"{what} needs a reason or findings, written by the officer.", "Write a reason or findings.")
    return said


def on_one_line(words: str) -> str:
    """Join a text into one line. Raises InputError for control characters and characters that reorder text."""
    said = " ".join(words.split())
    if any(unicodedata.category(each) == "Cc" or unicodedata.bidirectional(each) in REORDERS for each in said):
        raise InputError("The text contains an invisible character.", "Remove the character.")
    return said


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
        """Return a person's commitment. For a new name, first write the name and a random salt to disk."""
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
        """Return a mapping of name to commitment for every known person, sorted by name."""
        return {name: _commitment(salt, name) for name, salt in sorted(self._read().items())}

    def shown(self, person: str, names: Mapping[str, str] | None = None) -> str:
        """Return a person's name for display, or the start of the commitment if the name is unknown.

        Args:
            names: result of `listed`, if the caller has it already.
        """
        by_commitment = {commitment: name for name, commitment in (names or self.listed()).items()}
        return by_commitment.get(person, person_in_short(person))

    def forget(self, name: str, refuse: Callable[[str], None]) -> str:
        """Erase a person's name and salt, and return the commitment. Nobody can then find the name of this commitment.
        Raises NotFoundError for an unknown name.

        Args:
            refuse: function that raises an error if the commitment is still needed. While the function runs, no person
                can be added.
        """
        with self._held():
            salts = self._read()
            if name not in salts:
                raise NotFoundError(
                    f"{self.path}: no person with this name is known.", "`sovereign audit people list` shows the names."
                )
            commitment = _commitment(salts[name], name)
            refuse(commitment)
            del salts[name]
            self._write(salts)
        return commitment

    @contextmanager
    def kept(self, persons: Iterable[str]) -> Iterator[None]:
        """Prevent the erasure of persons, given as commitments, while the context is open. Raises ConflictError if a
        person was already erased."""
        with self._held():
            known = set(self.listed().values())
            if any(COMMITMENT.fullmatch(each) and each not in known for each in persons):
                raise ConflictError("A participant's name was erased in the meantime.", "Begin again.")
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
    """Return the start of a commitment. Any other text, such as a name from an earlier release, is returned
    unchanged."""
    return f"person {person.removeprefix(PREFIX)[:12]}" if COMMITMENT.fullmatch(person) else person


def _commitment(salt: str, name: str) -> str:
    return PREFIX + hashlib.sha256(bytes.fromhex(salt) + name.encode()).hexdigest()
