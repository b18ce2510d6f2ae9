"""Authenticate callers and decide which adapters they may use: tokens, grants, proxy headers and middleware."""

import asyncio
import contextlib
import datetime
import hashlib
import hmac
import json
import logging
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

from pydantic import Field, ValidationError
from sqlalchemy import select
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import InputError, IntegrityError, NotFoundError, SovereignError, place_of
from sovereign_pipeline.base.files import Frozen, Stamps, digest_of, held_within, stamps, write_atomically
from sovereign_pipeline.base.pages import App, Proxy, Receive, Send, read_secret
from sovereign_pipeline.base.pages import Scope as Scope
from sovereign_pipeline.base.settings import VARIABLES, Settings
from sovereign_pipeline.policy.institution import ClassificationLadder, Institution
from sovereign_pipeline.policy.serving import Role
from sovereign_pipeline.record import audit_log
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.officers import on_one_line
from sovereign_pipeline.record.tables import AuditEntry
from sovereign_pipeline.serving.gateway.messages import Refusal, refused
from sovereign_pipeline.serving.high_water_marks import Digest, serving_directory


class Classified(Protocol):
    @property
    def line(self) -> str: ...

    @property
    def classification(self) -> str: ...


def _reaches(role: Role, adapter: Classified, ladder: ClassificationLadder) -> bool:
    """Return True if a role covers the adapter's line and level. Returns False if the ladder lacks either level. Roles
    are not combined: a clearance applies only to the lines of its own role."""
    if role.clearance not in ladder or adapter.classification not in ladder:
        return False
    return _covers(role, adapter.line) and not ladder.exceeds(adapter.classification, role.clearance)


def _covers(role: Role, line: str) -> bool:
    return role.lines is None or line in role.lines


@dataclass(frozen=True)
class Caller:
    key: str
    """Key of the caller's rate limits. It is never shown, logged or stored."""
    grants: tuple[Role, ...]
    groups: frozenset[str] = frozenset()
    """All roles that the institution's proxy sends, including roles without a grant."""
    named: Mapping[str, str] = field(default_factory=dict)
    """Mapping of header name to value, for the headers that name people and that a grant permits."""

    def may_use(self, adapter: Classified, ladder: ClassificationLadder) -> bool:
        return any(_reaches(grant, adapter, ladder) for grant in self.grants)

    def may_name(self, adapter: Classified, ladder: ClassificationLadder) -> bool:
        return any(grant.versions and _reaches(grant, adapter, ladder) for grant in self.grants)

    @property
    def cache_group(self) -> str:
        """Return the caller's cache group. Callers of one group may share an engine's cached prompts, because they have
        the same clearances."""
        return "\n".join(sorted({grant.clearance for grant in self.grants}))

    @property
    def may_read_metrics(self) -> bool:
        return any(grant.metrics for grant in self.grants)

    def user_for(self, line: str, user: object) -> str | None:
        """Return the hash of the person for whom a request to a line is sent; None if the caller sends it for itself.

        user: field `user` of the request, any JSON value. If a grant names a header for people, the header is used
            instead.
        """
        for grant in self.grants:
            if grant.users and _covers(grant, line):
                header = grant.front_end.user_header
                person = user if header is None else self.named.get(header)
                return None if person in (None, "", [], {}) else sha256_of(json.dumps(person, sort_keys=True))
        return None

    def may_oversee(self, adapter: Classified, ladder: ClassificationLadder) -> bool:
        return any(grant.admin and _reaches(grant, adapter, ladder) for grant in self.grants)

    @property
    def may_administer(self) -> bool:
        return any(grant.admin for grant in self.grants)


ADDED, REVOKED = "serving token added", "serving token revoked"
TOKEN_BYTES = 32
PREFIX = "sk-sov-"
"""Prefix of every token. Secret scanners can find tokens by this prefix."""
SHORTEST_ID = 8
LOCK_SECONDS = 30
LONGEST_DAYS = 366


class Token(Role):
    """A token's record, with the permissions of its holder."""

    lines: tuple[str, ...] | None
    """As in `Role`, but required. A record without this field is damaged, and must not give access to every line."""
    sha256: Digest
    who: str = Field(min_length=1, max_length=200)
    """Holder's name. The ledger has a salted commitment to this name."""
    salt: Digest
    created_at: datetime.datetime
    expires_at: datetime.datetime
    revoked_at: datetime.datetime | None = None

    @property
    def id(self) -> str:
        """Return the first digits of the token's SHA-256, for display."""
        return self.sha256[:12]

    def state(self, now: datetime.datetime) -> str:
        if self.revoked_at is not None:
            return "revoked"
        return "expired" if now >= self.expires_at else "valid"

    def facts(self) -> dict[str, Any]:
        """Return the facts for the token's ledger entry. `admin` and `users` are omitted if they are False. Values of
        `front_end` that are defaults are omitted too."""
        return {
            "token": self.sha256,
            "who": digest_of({"who": self.who, "salt": self.salt}),
            "clearance": self.clearance,
            "lines": list(self.lines) if self.lines is not None else None,
            "versions": self.versions,
            "metrics": self.metrics,
            **{name: True for name in ("admin", "users") if getattr(self, name)},
            **({"front_end": front_end} if (front_end := self.front_end.model_dump(exclude_defaults=True)) else {}),
            "created": self.created_at.isoformat(),
            "expires": self.expires_at.isoformat(),
        }


class TokenFile(Frozen):
    tokens: tuple[Token, ...] = ()


def file_of(settings: Settings) -> Path:
    return settings.serving / "tokens.json"


def read_tokens(path: Path) -> tuple[Token, ...]:
    """Read all tokens, oldest first; none if there is no file. Raises IntegrityError for a file that is invalid or that
    other accounts can access."""
    try:
        mode, content = path.stat().st_mode, path.read_bytes()
    except FileNotFoundError:
        return ()
    if mode & 0o077:
        raise IntegrityError(
            f"{path}: other accounts can access the gateway's tokens.", f"Close the file: chmod 600 {path}"
        )
    try:
        return TokenFile.model_validate_json(content).tokens
    except ValidationError:
        raise IntegrityError(
            f"{path}: this is not a valid token file.", "Restore it from a copy. Until then, no token is accepted."
        ) from None


def add_token(
    settings: Settings, registry: Registry, who: str, grant: Role, days: int, actor: str
) -> tuple[str, Token]:
    """Create a token and log it. Returns the token's text, which is stored nowhere, and the token's record. Raises
    InputError if the name `who` is empty or too long."""
    text = PREFIX + secrets.token_urlsafe(TOKEN_BYTES)
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    try:
        token = Token(
            sha256=sha256_of(text),
            who=on_one_line(who),
            salt=secrets.token_hex(32),
            **dict(grant),
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
    """Revoke a token by the first digits of its SHA-256. The revocation takes effect at once, and is then logged.

    If the registry is down, its error is raised: the revocation has taken effect, but is not logged. To log it later,
    revoke the token again. Raises NotFoundError if no token or more than one matches.
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
    """Find the tokens that are not revoked in the token file, but are revoked or missing in the ledger. Returns a
    mapping of each such token's SHA-256 to the reason."""
    with registry.reading() as session:
        added: dict[str, list[Mapping[str, Any]]] = {}
        for subjects in _entries(session, ADDED):
            added.setdefault(subjects["token"], []).append(subjects)
        revoked = {subjects["token"] for subjects in _entries(session, REVOKED)}
    refused = {}
    for token in tokens:
        if token.revoked_at is None and token.facts() not in added.get(token.sha256, []):
            refused[token.sha256] = "no ledger entry adds this token with these permissions"
        elif token.revoked_at is None and token.sha256 in revoked:
            refused[token.sha256] = "a ledger entry revokes this token"
    return refused


class Tokens:
    """The tokens of one gateway. The token file is read again whenever it changes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: Stamps = ()
        self._tokens: tuple[Token, ...] = ()
        self._compared: frozenset[str] | None = None
        """Digests of the facts of tokens that are valid in the ledger; None before the first comparison."""

    def caller(self, text: str, now: datetime.datetime) -> Caller | None:
        """Return the caller who holds a token; None if the token is unknown, expired or revoked, or if the latest
        `compare_with` did not confirm it.

        Every token is compared in constant time. Raises IntegrityError for an invalid file.
        """
        given, found = sha256_of(text), None
        for token in self.all():
            if hmac.compare_digest(token.sha256, given):
                found = token
        if found is None or found.state(now) != "valid":
            return None
        if self._compared is not None and digest_of(found.facts()) not in self._compared:
            return None
        return Caller(f"token {found.sha256}", (found,))

    def all(self) -> tuple[Token, ...]:
        seen = stamps([self._path])
        if seen != self._seen:
            self._tokens = read_tokens(self._path)
            self._seen = seen
        return self._tokens

    def compare_with(self, registry: Registry) -> Mapping[str, str]:
        """Compare the tokens with the ledger. From now on, reject tokens that the ledger does not confirm. Return a
        mapping of each rejected token's id to the reason."""
        tokens = self.all()
        refused = refused_by(registry, tokens)
        valid = (token for token in tokens if token.revoked_at is None and token.sha256 not in refused)
        self._compared = frozenset(digest_of(token.facts()) for token in valid)
        return {token.id: refused[token.sha256] for token in tokens if token.sha256 in refused}


def sha256_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


@contextlib.contextmanager
def _changing(settings: Settings) -> Iterator[tuple[Token, ...]]:
    """Lock the token file against other processes and yield its tokens."""
    with held_within(serving_directory(settings) / "tokens.lock", LOCK_SECONDS):
        yield read_tokens(file_of(settings))


def _write(settings: Settings, tokens: Sequence[Token]) -> None:
    write_atomically(file_of(settings), TokenFile(tokens=tuple(tokens)).model_dump_json(indent=1) + "\n")


def _find(tokens: Sequence[Token], id: str) -> Token:
    found = [token for token in tokens if len(id) >= SHORTEST_ID and token.sha256.startswith(id)]
    if len(found) == 1:
        return found[0]
    known = ", ".join(token.id for token in tokens if token.revoked_at is None) or "none"
    raise NotFoundError("The id matches no token or more than one.", f"Pass one of these ids: {known}.")


def _entries(session: Session, action: str, token: str | None = None) -> list[dict[str, Any]]:
    query = select(AuditEntry.subjects).where(AuditEntry.action == action)
    if token is not None:
        query = query.where(AuditEntry.subjects["token"].as_string() == token)
    return list(session.scalars(query.order_by(AuditEntry.sequence)))


_LOG = logging.getLogger(__name__)

OPEN_PATHS = frozenset({"/healthz", "/readyz", "/openapi.json", "/", "/admin"})
"""Paths that need no authentication. Their responses name no line, adapter or caller."""
SECONDS_FOR_A_BODY = 30
LONGEST_AUTHORIZATION = 500
LONGEST_PERSON = 1_000
"""Maximum length of a header value that names a person. A longer value is ignored."""
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
]


class Callers:
    """Finds the sender of a request: the user that the proxy names, or the holder of a token."""

    def __init__(
        self,
        tokens: Tokens,
        proxy: Proxy | None = None,
        user_header: str = "",
        roles_header: str = "",
        roles: dict[str, Role] | None = None,
    ) -> None:
        self._tokens = tokens
        self._proxy = proxy
        self._user_header = user_header
        self._roles_header = roles_header
        self._roles = roles or {}

    def of(self, scope: Scope) -> Caller:
        """Return the sender of a request. Raises Refusal (401) if the request has no known sender, and IntegrityError
        for an invalid token file."""
        caller = self.named(scope) or self._of_token(scope)
        headers = {grant.front_end.user_header or "" for grant in caller.grants} - {""}
        sent = {header: _sent_once(scope, header) for header in headers}
        people = {header: value.decode("latin-1") for header, value in sent.items() if len(value) <= LONGEST_PERSON}
        return replace(caller, named=people)

    def _of_token(self, scope: Scope) -> Caller:
        kind, _, token = _sent_once(scope, "authorization").partition(b" ")
        is_one = kind.lower() == b"bearer" and len(token) <= LONGEST_AUTHORIZATION
        text, now = token.strip().decode("latin-1"), datetime.datetime.now(datetime.UTC)
        if not is_one or (caller := self._tokens.caller(text, now)) is None:
            raise refused("invalid_api_key")
        return caller

    def named(self, scope: Scope) -> Caller | None:
        user = self._proxy.named(scope, self._user_header) if self._proxy is not None else None
        if self._proxy is None or user is None:
            return None
        named = self._proxy.named(scope, self._roles_header) or ""
        groups = frozenset(each.strip() for each in named.split(",")) - {""}
        grants = tuple(self._roles[name] for name in sorted(groups) if name in self._roles)
        return Caller(f"proxy {user}", grants, groups)


def _sent_once(scope: Scope, header: str) -> bytes:
    """Return the value of a header, or b"" if it is missing or repeated."""
    sent = [value for name, value in scope["headers"] if name.lower() == header.lower().encode()]
    return bytes(sent[0]) if len(sent) == 1 else b""


def callers_of(settings: Settings, institution: Institution, tokens: Tokens) -> Callers:
    """Build the `Callers` of an installation. Raises InputError for a proxy header without a shared secret."""
    if settings.serving_user_header is None:
        return Callers(tokens)
    if settings.serving_proxy_secret is None:
        raise InputError(
            f"{VARIABLES['serving_user_header']} names a header, but no secret proves that the proxy has sent it.",
            f"Write a secret into a file, have the proxy send it, and name the file in "
            f"{VARIABLES['serving_proxy_secret']}.",
        )
    proxy = Proxy(settings.serving_proxies, read_secret(settings.serving_proxy_secret))
    return Callers(
        tokens, proxy, settings.serving_user_header, settings.serving_roles_header, institution.serving.roles
    )


def auth_middleware(app: App, callers: Callers, body_bytes: int, count: Callable[[int], None]) -> App:
    """Authenticate each request, and read its body up to a limit.

    `state["caller"]` is the sender. It may be None on `OPEN_PATHS`. An error becomes a response in OpenAI's format,
    unless a response has begun. Errors other than Refusal are also logged, without any text of the request. count:
    function that is called with the status of each error.
    """

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await (app(scope, receive, send) if scope["type"] == "lifespan" else _close(send))
            return
        begun = False

        async def sending(message: Any) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                given = message.get("headers", [])
                missing = [each for each in HEADERS if each[0] not in {name.lower() for name, _ in given}]
                message = {**message, "headers": [*given, *missing]}
            await send(message)

        try:
            is_open = scope["path"] in OPEN_PATHS
            scope.setdefault("state", {})["caller"] = callers.named(scope) if is_open else callers.of(scope)
            await app(scope, await _read(scope, receive, body_bytes), sending)
        except Refusal as refusal:
            count(refusal.status)
            await _as_response(refusal)(scope, receive, sending)
        except Exception as error:
            _LOG.error(str(error) if isinstance(error, SovereignError) else place_of(error))
            count(500)
            if not begun:
                await _as_response(refused("internal_error"))(scope, receive, sending)

    return answer


async def _read(scope: Scope, receive: Receive, most: int) -> Receive:
    too_large = Refusal(
        413, f"The request has more than {most} bytes.", "request_too_large", headers={"Connection": "close"}
    )
    stated = [value for name, value in scope["headers"] if name.lower() == b"content-length"]
    if any(not value.isdigit() or int(value[:20]) > most for value in stated):
        raise too_large
    body = b""
    try:
        async with asyncio.timeout(SECONDS_FOR_A_BODY):
            more = True
            while more:
                message = await receive()
                if message["type"] != "http.request":
                    raise Refusal(400, "The request is incomplete.", "incomplete_request")
                body += message.get("body", b"")
                if len(body) > most:
                    raise too_large
                more = message.get("more_body", False)
    except TimeoutError:
        raise Refusal(408, "The request took too long to arrive.", "request_timeout") from None
    pending = [{"type": "http.request", "body": body, "more_body": False}]

    async def following() -> Any:
        return pending.pop() if pending else await receive()

    return following


def _as_response(refusal: Refusal) -> App:
    from starlette.responses import JSONResponse

    return JSONResponse(refusal.body, refusal.status, headers=refusal.headers)


async def _close(send: Send) -> None:
    await send({"type": "websocket.close", "code": 1008})
