"""Bearer tokens of the gateway's callers: what is kept of each, who may use it for what, adding and revoking.

A token is 32 random bytes and shown once; its SHA-256 is kept. The file lies in the serving directory, 0600, so that
the gateway needs no registry to read it. Adding and revoking are entries of the ledger. A gateway that has compared the
two lets in what the ledger says and nothing else: a token that was added since waits for the next comparison, seconds
later.

What belongs here: the file, and its entries. What does not: reading a request's header (`gateway/doorway.py`).
"""

import contextlib
import datetime
import hashlib
import hmac
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import InputError, IntegrityError, NotFoundError
from sovereign_pipeline.base.files import digest_of, held_within
from sovereign_pipeline.base.frozen import Frozen
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.ledger import audit_log
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.ledger.tables import AuditEntry
from sovereign_pipeline.serving.callers import Caller, Grant

ADDED, REVOKED = "serving token added", "serving token revoked"
TOKEN_BYTES = 32
PREFIX = "sk-sov-"
"""Of every token, so that a scanner of secrets finds one that was pasted somewhere."""
SHORTEST_ID = 8
LOCK_SECONDS = 30
LONGEST_DAYS = 366

Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Token(Frozen):
    """What is kept of a token."""

    sha256: Digest
    who: str = Field(min_length=1, max_length=200)
    """Whom it was given to. The ledger holds a salted commitment to it."""
    salt: Digest
    clearance: str
    lines: tuple[str, ...] | None
    versions: bool
    metrics: bool
    admin: bool = False
    users: bool = False
    created_at: datetime.datetime
    expires_at: datetime.datetime
    revoked_at: datetime.datetime | None = None

    @property
    def id(self) -> str:
        """For people: the first digits of its SHA-256."""
        return self.sha256[:12]

    @property
    def grant(self) -> Grant:
        lines = frozenset(self.lines) if self.lines is not None else None
        return Grant(self.clearance, lines, self.versions, self.metrics, self.admin, self.users)

    def state(self, now: datetime.datetime) -> str:
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if now >= self.expires_at else "valid"

    def facts(self) -> dict[str, Any]:
        """What the entry of the ledger says of it; `admin` and `users` only where it gives them."""
        return {
            "token": self.sha256,
            "who": digest_of({"who": self.who, "salt": self.salt}),
            "clearance": self.clearance,
            "lines": list(self.lines) if self.lines is not None else None,
            "versions": self.versions,
            "metrics": self.metrics,
            **{name: True for name in ("admin", "users") if getattr(self, name)},
            "created": self.created_at.isoformat(),
            "expires": self.expires_at.isoformat(),
        }


class TokenFile(Frozen):
    """The file of all tokens."""

    tokens: tuple[Token, ...] = ()


def file_of(settings: Settings) -> Path:
    return settings.serving / "tokens.json"


def serving_directory(settings: Settings) -> Path:
    """The directory, made if need be. Raises InputError where another account can enter it."""
    directory = settings.serving
    directory.mkdir(parents=True, exist_ok=True, mode=0o700)
    if directory.stat().st_mode & 0o077:
        raise InputError(
            f"{directory}: other accounts can enter the directory of the gateway's tokens.",
            f"Close it: chmod 700 {directory}",
        )
    return directory


def read_tokens(path: Path) -> tuple[Token, ...]:
    """All tokens, the oldest first. Raises IntegrityError for a file that is none, or that other accounts can read."""
    try:
        mode, content = path.stat().st_mode, path.read_bytes()
    except FileNotFoundError:
        return ()
    if mode & 0o077:
        raise IntegrityError(f"{path}: other accounts can reach the gateway's tokens.", f"Close it: chmod 600 {path}")
    try:
        return TokenFile.model_validate_json(content).tokens
    except ValidationError:
        raise IntegrityError(
            f"{path}: this is not the file of the gateway's tokens.", "Restore it from a copy; nobody is let in by it."
        ) from None


def add_token(
    settings: Settings, registry: Registry, who: str, grant: Grant, days: int, actor: str
) -> tuple[str, Token]:
    """Make a token and record it. Returns its text, which is kept nowhere, and what is kept."""
    text = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    try:
        token = Token(
            sha256=sha256_of(text),
            who=who,
            salt=secrets.token_hex(32),
            clearance=grant.clearance,
            lines=tuple(sorted(grant.lines)) if grant.lines is not None else None,
            versions=grant.versions,
            metrics=grant.metrics,
            admin=grant.admin,
            users=grant.users,
            created_at=now,
            expires_at=now + datetime.timedelta(days=days),
        )
    except ValidationError:
        raise InputError("The name of the caller is empty or too long.", "Give 1 to 200 characters.") from None
    with _changing(settings) as tokens:
        with registry.writing() as session:
            audit_log.append(session, actor, ADDED, token.facts())
        _write(settings, (*tokens, token))
    return text, token


def revoke_token(settings: Settings, registry: Registry, id: str, actor: str) -> Token:
    """End a token by the first digits of its SHA-256. It takes effect before it is entered: taking back must not wait.

    Once more for a token that was revoked: enters what a registry that was away has missed. Raises NotFoundError for no
    token or several.
    """
    with _changing(settings) as tokens:
        token = _find(tokens, id)
        if token.revoked_at is None:
            revoked_at = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
            token = token.model_copy(update={"revoked_at": revoked_at})
            _write(settings, tuple(token if each.sha256 == token.sha256 else each for each in tokens))
    with registry.writing() as session:
        if not _entries(session, REVOKED, token.sha256):
            audit_log.append(session, actor, REVOKED, {"token": token.sha256})
    return token


def refused_by(registry: Registry, tokens: Sequence[Token]) -> Mapping[str, str]:
    """SHA-256 of each token that the file has as valid, and the ledger as another one or as revoked -> why."""
    with registry.reading() as session:
        added: dict[str, list[Mapping[str, Any]]] = {}
        for subjects in _entries(session, ADDED):
            added.setdefault(subjects["token"], []).append(subjects)
        revoked = {subjects["token"] for subjects in _entries(session, REVOKED)}
    refused = {}
    for token in tokens:
        if token.revoked_at is not None:
            continue
        if token.facts() not in added.get(token.sha256, []):
            refused[token.sha256] = "no entry of the ledger says that it was added as it is"
        elif token.sha256 in revoked:
            refused[token.sha256] = "the ledger says that it was revoked"
    return refused


class Tokens:
    """The tokens as one gateway knows them: read again whenever the file is another one."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, ...] | None = ()
        self._tokens: tuple[Token, ...] = ()
        self._compared: frozenset[str] | None = None
        """Digests of what is on record of each token that the ledger has as valid; None before the first comparison."""

    def caller(self, text: str, now: datetime.datetime) -> Caller | None:
        """Whom a token stands for; None for one that is unknown, expired, revoked or not on record.

        Every token is compared, each in constant time. Raises IntegrityError where the file cannot be believed.
        """
        given, found = sha256_of(text), None
        for token in self.all():
            if hmac.compare_digest(token.sha256, given):
                found = token
        if found is None or found.state(now) != "valid":
            return None
        if self._compared is not None and digest_of(found.facts()) not in self._compared:
            return None
        return Caller(f"token {found.sha256}", (found.grant,))

    def all(self) -> tuple[Token, ...]:
        """Raises IntegrityError where the file cannot be believed."""
        seen = _identity(self._path)
        if seen != self._seen:
            self._tokens = read_tokens(self._path)
            self._seen = seen
        return self._tokens

    def compare_with(self, registry: Registry) -> Mapping[str, str]:
        """Refuse from now on what the ledger does not say. Returns id -> why. Raises as `all` does."""
        tokens = self.all()
        refused = refused_by(registry, tokens)
        valid = (token for token in tokens if token.revoked_at is None and token.sha256 not in refused)
        self._compared = frozenset(digest_of(token.facts()) for token in valid)
        return {token.id: refused[token.sha256] for token in tokens if token.sha256 in refused}


def sha256_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _identity(path: Path) -> tuple[int, ...] | None:
    """What changes with the file: an older time is another time, too."""
    try:
        stat = path.stat()
    except FileNotFoundError:
        return None
    return stat.st_ino, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_size, stat.st_mode


@contextlib.contextmanager
def _changing(settings: Settings) -> Any:
    """The tokens, while no other process changes them."""
    with held_within(serving_directory(settings) / "tokens.lock", LOCK_SECONDS):
        yield read_tokens(file_of(settings))


def _write(settings: Settings, tokens: Sequence[Token]) -> None:
    """Whole or not at all, also when the machine stops."""
    path = file_of(settings)
    aside = path.with_name(".tokens.json.new")
    aside.unlink(missing_ok=True)
    content = TokenFile(tokens=tuple(tokens)).model_dump_json(indent=1).encode() + b"\n"
    with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
    aside.replace(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _find(tokens: Sequence[Token], id: str) -> Token:
    found = [token for token in tokens if len(id) >= SHORTEST_ID and token.sha256.startswith(id)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(token.id for token in tokens if token.revoked_at is None) or "none"
    raise NotFoundError("There is no such token.", f"Give the id of one of these: {known}.")


def _entries(session: Session, action: str, token: str | None = None) -> list[dict[str, Any]]:
    query = select(AuditEntry.subjects).where(AuditEntry.action == action)
    if token is not None:
        query = query.where(AuditEntry.subjects["token"].as_string() == token)
    return list(session.scalars(query.order_by(AuditEntry.sequence)))
