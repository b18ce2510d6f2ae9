"""Canonical bytes and SHA-256: the one way in this project to turn a value or a file into a digest."""

import hashlib
import json
from pathlib import Path
from typing import Any

BLOCK = 1 << 20
"""Bytes read at once."""
ENCODER = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)


def canonical_json(value: Any) -> bytes:
    """UTF-8 JSON with sorted keys and no spaces. Raises TypeError or ValueError for NaN, sets and the like."""
    return ENCODER.encode(value).encode()


def digest_of(value: Any) -> str:
    """SHA-256 (64 hex digits) of the canonical JSON of a value."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def file_sha256(path: Path) -> str:
    """SHA-256 (64 hex digits) of a file's bytes, read in blocks."""
    hasher = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            hasher.update(block)
    return hasher.hexdigest()


def short(digest: str) -> str:
    """The first twelve digits, for people; never for identity."""
    return digest[:12]
