"""What the institution's proxy says of who sent a request, and when that is believed.

What belongs here: which connection is the proxy's own, and reading its headers. What does not: what somebody who is
named may do (the review page, the gateway).
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sovereign_pipeline.errors import InputError

SECRET_HEADER = "X-Proxy-Secret"
SHORTEST_SECRET = 32
LONGEST_NAME = 200
"""Characters of a header that names somebody; a longer one names nobody."""

Scope = Mapping[str, Any]
"""Of an ASGI request."""


@dataclass(frozen=True)
class Proxy:
    """The institution's proxy, as a server behind it tells it from everybody else."""

    addresses: frozenset[str]
    secret: bytes | None = field(default=None, repr=False)
    """What it sends as X-Proxy-Secret; None: its address alone is believed."""

    def sent(self, scope: Scope) -> bool:
        """Whether the connection itself comes from the proxy; no forwarded address is believed about that."""
        if scope.get("client") is None or scope["client"][0] not in self.addresses:
            return False
        return self.secret is None or _is_same(self.secret, _values(scope, SECRET_HEADER))

    def named(self, scope: Scope, header: str) -> str | None:
        """What the proxy names in a header; None where it sent none, several, or the request is not from it."""
        values = _values(scope, header) if self.sent(scope) else []
        if len(values) != 1 or not 0 < len(values[0]) <= LONGEST_NAME:
            return None
        return values[0].decode("latin-1")


def read_secret(path: Path) -> bytes:
    """The secret in a file. Raises InputError for one that is missing, short, or readable by other accounts."""
    if not path.is_file():
        raise InputError(f"{path}: there is no such file.", "Write the secret that the proxy sends into it.")
    if path.stat().st_mode & 0o077:
        raise InputError(f"{path}: other accounts can read the proxy's secret.", f"Close it: chmod 600 {path}")
    secret = path.read_bytes().strip()
    if len(secret) < SHORTEST_SECRET:
        raise InputError(
            f"{path}: the proxy's secret has fewer than {SHORTEST_SECRET} characters.",
            "Write a long random one, such as `openssl rand -hex 32` prints.",
        )
    return secret


def _is_same(secret: bytes, sent: list[bytes]) -> bool:
    """Compared in constant time, also where the lengths differ."""
    return len(sent) == 1 and hmac.compare_digest(hashlib.sha256(secret).digest(), hashlib.sha256(sent[0]).digest())


def _values(scope: Scope, header: str) -> list[bytes]:
    name = header.lower().encode("latin-1", "replace")
    return [value for given, value in scope["headers"] if given.lower() == name]
