"""The form of everything that is signed: a payload in a DSSE envelope, as a sigstore bundle v0.3 with one signature.

Every byte of it is held to one spelling, so that one which a reader would pass over is found. What belongs here: the
form. What does not: what the payload says (`statements.py`, `model_directory.py`), and whether the key counts
(`trust.py`).
"""

import base64
import binascii
import json
import re
from collections.abc import Mapping
from typing import Any

from sovereign_pipeline.base.errors import IntegrityError

PAYLOAD = "application/vnd.in-toto+json"
BUNDLE_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SUFFIX = ".sigstore.json"
"""Of a bundle's file name; it follows the name of the file that the statement is about."""
LARGEST_BUNDLE = 16 << 20
SHA256 = re.compile(r"[0-9a-f]{64}")
AGAIN = "Take the bundle again from where it was made, or have it signed anew."


def pre_authentication_encoding(payload: bytes) -> bytes:
    """The bytes that are signed (DSSE's PAE). Another program verifies the signature over them."""
    return f"DSSEv1 {len(PAYLOAD)} {PAYLOAD} {len(payload)} ".encode() + payload


def bundle_bytes(keyid: str, payload: bytes, signature: bytes) -> bytes:
    """The one spelling of a bundle."""
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD,
        "signatures": [{"sig": base64.b64encode(signature).decode()}],
    }
    content = {
        "mediaType": BUNDLE_MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": keyid}},
        "dsseEnvelope": envelope,
    }
    return canonical(content) + b"\n"


def bundle_parts(bundle: bytes) -> tuple[str, bytes, bytes]:
    """Id of the key, payload and signature. Whatever else a bundle could hold is refused, spaces included."""
    content = json_object(bundle, "This is no sigstore bundle")
    if content.get("mediaType") != BUNDLE_MEDIA_TYPE:
        raise IntegrityError(f"The bundle's media type is not {BUNDLE_MEDIA_TYPE}.", AGAIN)
    hint = _at(content, "verificationMaterial", "publicKey", "hint")
    if not isinstance(hint, str) or not SHA256.fullmatch(hint):
        raise IntegrityError("The bundle does not say which key signed it (publicKey.hint).", AGAIN)
    if _at(content, "dsseEnvelope", "payloadType") != PAYLOAD:
        raise IntegrityError(f"The envelope's payload is not {PAYLOAD}.", AGAIN)
    signatures = _at(content, "dsseEnvelope", "signatures")
    if not isinstance(signatures, list) or len(signatures) != 1:
        count = len(signatures) if isinstance(signatures, list) else 0
        raise IntegrityError(f"The envelope has {count} signatures, and one is needed.", AGAIN)
    try:
        payload = base64.b64decode(_at(content, "dsseEnvelope", "payload"), validate=True)
        signature = base64.b64decode(_at(signatures[0], "sig"), validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise IntegrityError("The envelope's payload or signature is not Base64.", AGAIN) from None
    if bundle_bytes(hint, payload, signature) != bundle:
        raise IntegrityError("The bundle's bytes are not as they were written.", AGAIN)
    return hint, payload, signature


def is_canonical(content: Mapping[str, Any], written: bytes) -> bool:
    try:
        return canonical(content) == written
    except (ValueError, RecursionError):
        return False


def json_object(content: bytes, complaint: str) -> dict[str, Any]:
    try:
        parsed = json.loads(content) if len(content) <= LARGEST_BUNDLE else None
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise IntegrityError(f"{complaint}.", AGAIN)
    return parsed


def _at(content: Any, *path: str) -> Any:
    """What lies at a path of objects; None where there is none."""
    for key in path:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def canonical(content: Mapping[str, Any]) -> bytes:
    """JSON in UTF-8 with sorted keys and no spaces. Raises ValueError for what has no such writing."""
    return json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()
