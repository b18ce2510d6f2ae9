"""Who an operator is: one-time links, and the signed session that a link is exchanged for.

What belongs here: tokens, their one use, and sessions as signed text. What does not: HTTP (`page.py`).
"""

import contextlib
import datetime
import hashlib
import hmac
import secrets
from dataclasses import dataclass

from sqlalchemy.orm import Session as DatabaseSession

from sovereign_pipeline.errors import SignInError
from sovereign_pipeline.ledger import audit_log as audit
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.ledger.tables import SignInLink, SignInUse
from sovereign_pipeline.settings import Settings

TOKEN_BYTES = 32
_KEY_BYTES = 32


@dataclass(frozen=True)
class SignedIn:
    """One operator in one review."""

    review: str
    operator: str


def issue_link(session: DatabaseSession, review: str, operator: str, days: int, actor: str) -> str:
    """Make a one-time link in the caller's transaction. Returns its token, which is not stored. actor: whoever has it
    made, and so could use it."""
    token = secrets.token_urlsafe(TOKEN_BYTES)
    expires_at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    digest = _sha256(token)
    session.add(SignInLink(token_sha256=digest, review_id=review, operator=operator, expires_at=expires_at))
    session.flush()
    audit.append(session, actor, "sign-in link issued", {"review": review, "operator": operator, "link": digest})
    return token


def use_link(registry: Registry, token: str) -> SignedIn:
    """Exchange a token for who it stands for, once. Raises SignInError for one that is unknown, used or too old."""
    digest = _sha256(token)
    with registry.writing() as session:
        link = session.get(SignInLink, digest)
        if link is None:
            raise SignInError("This link is not one of ours. Copy it whole, or ask whoever sent it for a new one.")
        if session.get(SignInUse, digest) is not None:
            raise SignInError("This link was used already. Ask whoever sent it for a new one; no rating is lost.")
        now = datetime.datetime.now(datetime.UTC)
        if now >= link.expires_at:
            raise SignInError("This link is too old. Ask whoever sent it for a new one; no rating is lost.")
        session.add(SignInUse(token_sha256=digest, used_at=now))
        session.flush()
        audit.append(session, link.operator, "signed in", {"review": link.review_id, "link": digest})
        return SignedIn(link.review_id, link.operator)


class Sessions:
    """Sessions as text that only this installation can have signed; nothing of them is stored on the server."""

    def __init__(self, settings: Settings, seconds: int) -> None:
        from itsdangerous import URLSafeTimedSerializer

        self._seconds = seconds
        self._key = _signing_key(settings)
        self._serializer = URLSafeTimedSerializer(self._key, salt="session", signer_kwargs=_SIGNER)

    def sign(self, who: SignedIn) -> str:
        return str(self._serializer.dumps([who.review, who.operator]))

    def read(self, signed: str) -> SignedIn:
        """Raises SignInError for text that was changed, or signed too long ago."""
        from itsdangerous import BadSignature, SignatureExpired

        try:
            review, operator = self._serializer.loads(signed, max_age=self._seconds)
        except SignatureExpired:
            raise SignInError("You were signed in too long ago. Ask for a new link; no rating is lost.") from None
        except (BadSignature, ValueError):
            raise SignInError("You are not signed in here. Open the link that you were sent.") from None
        return SignedIn(review, operator)

    def form_token(self, who: SignedIn) -> str:
        """What a page of ours puts into each request that changes something, so that no other site can make one."""
        content = f"form\n{who.review}\n{who.operator}".encode()
        return hmac.new(self._key, content, hashlib.sha256).hexdigest()

    def is_form_token(self, who: SignedIn, token: str) -> bool:
        return hmac.compare_digest(self.form_token(who).encode(), token.encode())


_SIGNER = {"key_derivation": "hmac", "digest_method": hashlib.sha256}


def _signing_key(settings: Settings) -> bytes:
    """Made once; deleting the file signs everybody out."""
    path = settings.review_secrets / "session.key"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not path.exists():
        aside = path.with_name(f".session.key-{secrets.token_hex(8)}")
        aside.touch(mode=0o600)
        aside.write_bytes(secrets.token_bytes(_KEY_BYTES))
        with contextlib.suppress(FileExistsError):  # another process of this installation was first
            path.hardlink_to(aside)
        aside.unlink()
    return path.read_bytes()


def _sha256(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()
