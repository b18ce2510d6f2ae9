"""Who reads the pages: a caller of the gateway who may see how it stands with lines, by the same tokens and roles.

A token is given once, by a form; from then on a cookie with a random value stands for it, as long as this process runs
and the token is valid. Tokens are compared with the ledger at each request. What belongs here: sessions, and what a
reader's grants reach. What does not: tokens (`serving/gateway/auth.py`), roles (`policy/serving.py`).
"""

import datetime
import secrets
import threading
from dataclasses import dataclass

from fastapi import Request

from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.policy.classification import ClassificationLadder
from sovereign_pipeline.policy.institution import load_institution
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.serving.gateway.auth import Caller, Tokens, callers_of, file_of

COOKIE = "registry_reader"
HOURS = 8
MOST_SESSIONS = 1000
"""The oldest ends for the next one."""


@dataclass(frozen=True)
class _Adapter:
    line: str
    classification: str


@dataclass(frozen=True)
class Reader:
    """Somebody who may read, as far as grants reach."""

    caller: Caller
    ladder: ClassificationLadder

    def reads(self, line: str, classification: str) -> bool:
        return self.caller.may_oversee(_Adapter(line, classification), self.ladder)

    def reads_line(self, line: str) -> bool:
        """Whether the line is among the reader's, whatever the levels of its adapters are."""
        return any(grant.admin and (grant.lines is None or line in grant.lines) for grant in self.caller.grants)


class Readers:
    """The readers of one installation's pages, as one process knows them."""

    def __init__(self, settings: Settings, registry: Registry) -> None:
        self._settings, self._registry = settings, registry
        self._tokens = Tokens(file_of(settings))
        self._sessions: dict[str, tuple[str, datetime.datetime]] = {}
        """Value of the cookie -> the token, and when the session ends."""
        self._changing = threading.Lock()

    def of(self, request: Request) -> Reader | None:
        """Who sent a request; None for nobody, and for somebody who may not read.

        Raises IntegrityError where the tokens cannot be believed.
        """
        institution = load_institution(self._settings.data)
        named = callers_of(self._settings, institution, self._tokens).named(request.scope)
        caller = named if named is not None else self._of_session(request.cookies.get(COOKIE, ""))
        if caller is None or not caller.may_administer:
            return None
        return Reader(caller, institution.ladder)

    def begin(self, token: str) -> str | None:
        """A session for a token; the value of its cookie, or None for a token that lets nobody read."""
        caller = self._of_token(token)
        if caller is None or not caller.may_administer:
            return None
        value = secrets.token_urlsafe(32)
        with self._changing:
            while len(self._sessions) >= MOST_SESSIONS:
                del self._sessions[next(iter(self._sessions))]
            self._sessions[value] = (token, _now() + datetime.timedelta(hours=HOURS))
        return value

    def end(self, request: Request) -> None:
        with self._changing:
            self._sessions.pop(request.cookies.get(COOKIE, ""), None)

    def _of_session(self, value: str) -> Caller | None:
        token, ends = self._sessions.get(value, ("", _now()))
        return self._of_token(token) if _now() < ends else None

    def _of_token(self, token: str) -> Caller | None:
        if not token:
            return None
        self._tokens.compare_with(self._registry)
        return self._tokens.caller(token, _now())


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
