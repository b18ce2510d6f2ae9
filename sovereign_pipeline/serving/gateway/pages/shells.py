"""Each page as one document: its styles, scripts and translations inside, and the hashes of them in its header.

Nothing of it depends on who asks, so anybody may have it: what the pages show, they ask for with the caller's token.
What belongs here: putting a document together. What does not: what it says (`*.html`, `*.js`, `arabic.json`).
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

HERE = Path(__file__).resolve().parent

Name = Literal["chat", "admin"]


@dataclass(frozen=True)
class Shell:
    """A document, and the headers that it goes with."""

    content: str
    headers: Mapping[str, str]


@cache
def shell(name: Name) -> Shell:
    """A page. No script or style but these runs in it, and no text becomes markup."""
    style, scripts = _text("page.css"), [_text("page.js"), _text(f"{name}.js")]
    arabic = json.dumps(json.loads(_text("arabic.json")), ensure_ascii=False).replace("<", "\\u003c")
    content = (
        _text(f"{name}.html")
        .replace("{{style}}", style)
        .replace("{{arabic}}", arabic)
        .replace("{{scripts}}", "".join(f"<script>{script}</script>\n" for script in scripts))
    )
    policy = [
        "default-src 'none'",
        f"script-src {' '.join(map(_hash, scripts))}",
        f"style-src {_hash(style)}",
        "connect-src 'self'",
        "img-src data:",
        "form-action 'none'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    ]
    return Shell(
        content,
        {
            "Content-Security-Policy": "; ".join(policy),
            "X-Frame-Options": "DENY",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
        },
    )


def _text(file: str) -> str:
    return (HERE / file).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
