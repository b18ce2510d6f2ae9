"""The key that signs the ledger's checkpoints: one file, 0600, in a directory of 0700 (`SOVEREIGN_KEYS`).

Its name is the origin of the log: drawn once, when the key is made, so that no two logs have the same. What belongs
here: the file, and which key the registry says is its own. What does not: what is signed (`checkpoints.py`).
"""

import os
import secrets
from pathlib import Path

from sqlalchemy import insert, select
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import InputError, IntegrityError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.ledger.log import notes
from sovereign_pipeline.ledger.log.notes import Signer, Verifier
from sovereign_pipeline.ledger.tables import LedgerKey

ORIGIN = "sovereign-pipeline/ledger"
ID_BYTES = 8
RESTORE = "Restore registry, home and keys from copies of the same time, and find out who changed them."


def key_file(settings: Settings) -> Path:
    return settings.keys / "log.key"


def new_log() -> Signer:
    """A new key for a new log."""
    return notes.new_signer(f"{ORIGIN}/{secrets.token_hex(ID_BYTES)}", notes.SIGNS)


def keep(settings: Settings, signer: Signer) -> None:
    """Write a new key. Raises InputError where another account can enter its directory."""
    assert_private(settings)
    write_key(key_file(settings), signer)


def assert_private(settings: Settings) -> None:
    """Raise InputError where another account can enter the directory of keys; it is made where it is missing."""
    settings.keys.mkdir(parents=True, exist_ok=True, mode=0o700)
    _refuse_open(settings.keys)


def write_key(path: Path, signer: Signer) -> None:
    """Write a private key into a new file. Raises InputError where it would not be private, or is there already."""
    try:
        path.parent.mkdir(exist_ok=True, mode=0o700)
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such directory.", "Correct the path of the key.") from None
    _refuse_open(path.parent)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise InputError(f"{path}: there is a file already.", "Name a new file: no key is written over.") from None
    with os.fdopen(handle, "w", encoding="utf-8") as stream:
        stream.write(signer.to_text() + "\n")
        stream.flush()
        os.fsync(stream.fileno())


def read_key(path: Path) -> Signer:
    """Raises InputError for a file that is none, and IntegrityError where another account can read it."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file.", "Correct the path of the key.")
    if path.stat().st_mode & 0o077:
        raise IntegrityError(f"{path}: other accounts can read this key.", f"Close it: chmod 600 {path}")
    try:
        return notes.parse_signer(path.read_text(encoding="utf-8", errors="replace"))
    except InputError as error:
        raise InputError(f"{path}: {error.message}", error.hint) from None


def signer(settings: Settings) -> Signer | None:
    """The private key on this machine; None where there is none."""
    path = key_file(settings)
    try:
        return read_key(path) if path.exists() else None
    except PermissionError:
        return None


def verifier(session: Session, settings: Settings) -> Verifier | None:
    """The log's public key; None before the first act. Raises IntegrityError when registry and key do not agree."""
    rows = list(session.scalars(select(LedgerKey.verifier)))
    here = signer(settings)
    try:
        stated = [notes.parse_verifier(each) for each in rows]
    except (InputError, AttributeError):  # another text, or none
        raise IntegrityError("The registry's row of the ledger's key holds no public key.", RESTORE) from None
    if len(stated) > 1 or (stated and here is not None and stated[0] != here.verifier):
        raise IntegrityError(
            f"{key_file(settings)}: this key is not the one of the registry's ledger.",
            f"Use the keys that belong to this registry. {RESTORE}",
        )
    if stated:
        return stated[0]
    return here.verifier if here is not None else None


def is_stated(session: Session) -> bool:
    """Whether the registry says which key is its own."""
    return session.scalars(select(LedgerKey.verifier)).first() is not None


def state(session: Session, signer: Signer) -> None:
    session.execute(insert(LedgerKey).values(verifier=str(signer.verifier)))


def _refuse_open(directory: Path) -> None:
    if directory.stat().st_mode & 0o077:
        raise InputError(
            f"{directory}: other accounts can enter the directory of keys.", f"Close it: chmod 700 {directory}"
        )
