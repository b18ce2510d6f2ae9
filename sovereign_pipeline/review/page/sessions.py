"""Sessions: signed text in a cookie, for which nothing is stored on the server.

What belongs here: signing and checking. What does not: one-time links, and which sign-in a newer link has ended
(`review/links.py`), cookies (`sign_in.py`).
"""

import contextlib
import hashlib
import hmac
import secrets

from itsdangerous import BadSignature, SignatureExpired, URLSafeTimedSerializer

from sovereign_pipeline.base.errors import SignInError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.review.custody import secrets_directory, write_private
from sovereign_pipeline.review.links import SignedIn

SESSION_SECONDS = 7 * 24 * 3600
_KEY_BYTES = 32
_SIGNER = {"key_derivation": "hmac", "digest_method": hashlib.sha256}


class Sessions:
    """Sessions that only this installation can have signed."""

    def __init__(self, settings: Settings) -> None:
        self._key = _signing_key(settings)
        self._serializer = URLSafeTimedSerializer(self._key, salt="session", signer_kwargs=_SIGNER)

    def sign(self, who: SignedIn) -> str:
        return str(self._serializer.dumps([who.review, who.operator, who.sign_in]))

    def read(self, signed: str) -> SignedIn:
        """Raises SignInError for text that was changed, or signed more than `SESSION_SECONDS` ago."""
        try:
            review, operator, sign_in = self._serializer.loads(signed, max_age=SESSION_SECONDS)
            return SignedIn(review, operator, int(sign_in))
        except SignatureExpired:
            raise SignInError("You were signed in too long ago.", "Ask for a new link; no rating is lost.") from None
        except (BadSignature, ValueError, TypeError):
            raise SignInError("You are not signed in here.", "Open the link that you were sent.") from None

    def form_token(self, who: SignedIn) -> str:
        """What our pages put into each request that changes something, so that no other site can make one (CSRF)."""
        content = f"form\n{who.review}\n{who.operator}\n{who.sign_in}".encode()
        return hmac.new(self._key, content, hashlib.sha256).hexdigest()

    def is_form_token(self, who: SignedIn, token: str) -> bool:
        return hmac.compare_digest(self.form_token(who).encode(), token.encode())


def _signing_key(settings: Settings) -> bytes:
    """The installation's key, made at first use; deleting its file signs everybody out."""
    path = secrets_directory(settings) / "session.key"
    if not path.exists():
        aside = path.with_name(f".session.key-{secrets.token_hex(8)}")
        write_private(aside, secrets.token_bytes(_KEY_BYTES))
        with contextlib.suppress(FileExistsError):  # another process of this installation was first
            path.hardlink_to(aside)
        aside.unlink()
    return path.read_bytes()
