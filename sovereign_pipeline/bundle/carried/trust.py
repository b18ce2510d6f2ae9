"""Whose signature counts: the trust root's role `bundle`, and the statement over the index.

The files of the trust root are TUF metadata. `signing/` reads them with TUF's library; a bare machine has none, so what
a bundle needs of it is verified here: every root by the one before and by itself, `targets.json` by the newest root,
and no key that is revoked. What belongs here: signatures. What does not: the files that were signed (`verifying.py`).
"""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sovereign_pipeline.bundle.carried.p256 import is_signed
from sovereign_pipeline.bundle.carried.reading import Refused, json_object, moment, sha256, spelled

STATEMENT, PREDICATE = "https://in-toto.io/Statement/v1", "https://sovereign-pipeline.example/bundle/v1"
SIGSTORE, PAYLOAD = "application/vnd.dev.sigstore.bundle.v0.3+json", "application/vnd.in-toto+json"
INDEX, SIGNATURE, TRUST = "index.json", "index.json.sigstore.json", "trust"
ROOTS = re.compile(r"[1-9][0-9]{0,5}\.root\.json")


@dataclass(frozen=True)
class BundleKeys:
    """The keys that may sign a bundle now, and the versions of the trust root that says so."""

    versions: tuple[int, int]
    """Of root and targets."""
    keys: Mapping[str, bytes]
    """Key id -> SubjectPublicKeyInfo in DER."""


def bundle_keys(files: Mapping[str, bytes], root_sha256: str, now: datetime) -> BundleKeys:
    """From the files of a trust root (name -> content). Raises Refused for whatever does not verify."""
    count = sum(ROOTS.fullmatch(name) is not None for name in files)
    if {*files} != {"root.json", "targets.json", *(f"{number}.root.json" for number in range(1, count + 1))}:
        raise Refused(f"{TRUST}: its files are not targets.json, root.json and every root from the first.")
    if count == 0 or sha256(files["1.root.json"]) != root_sha256.lower():
        raise Refused(f"{TRUST}/1.root.json: its SHA-256 is not {root_sha256}: it is another trust root.")
    root = _newest_root([files[f"{number}.root.json"] for number in range(1, count + 1)])
    if files["root.json"] != files[f"{count}.root.json"]:
        raise Refused(f"{TRUST}/root.json: it is not the newest root.")
    name = f"{TRUST}/targets.json"
    targets = json_object(files["targets.json"], name)
    _assert_threshold(targets, root["keys"], root["roles"]["targets"], name)
    signed = targets["signed"]
    role = next((each for each in signed["delegations"]["roles"] if each["name"] == "bundle"), None)
    if signed["_type"] != "targets" or signed["root_version"] > count:
        raise Refused(f"{name}: it was made under root {signed['root_version']}, and the newest here is {count}.")
    if role is None or role["threshold"] != 1:
        raise Refused(f"{name}: it has no role bundle of which one key signs.")
    for expires in (root["expires"], signed["expires"], role["expires"]):
        if now >= moment(expires, name):
            raise Refused(f"{name}: the trust root expired on {expires}.", "Its holders sign it anew, offline.")
    known = signed["delegations"]["keys"]
    counting = [keyid for keyid in role["keyids"] if known[keyid].get("revoked_from") is None]
    return BundleKeys(
        (count, int(signed["version"])), {each: _public_der(each, known[each], name) for each in counting}
    )


def _newest_root(roots: list[bytes]) -> dict[str, Any]:
    """Each root is signed by enough keys of its own, and of the one before."""
    before: dict[str, Any] = {}
    for number, content in enumerate(roots, start=1):
        name = f"{TRUST}/{number}.root.json"
        root = json_object(content, name)
        signed: dict[str, Any] = root["signed"]
        for by in (before, signed) if before else (signed,):
            _assert_threshold(root, by["keys"], by["roles"]["root"], name)
        if (signed["_type"], signed["version"]) != ("root", number):
            raise Refused(f"{name}: it says that it is {signed['_type']} {signed['version']}.")
        before = signed
    return before


def _assert_threshold(metadata: Mapping[str, Any], keys: Mapping[str, Any], role: Mapping[str, Any], name: str) -> None:
    """Enough different keys of the role signed it."""
    content = _olpc(metadata["signed"]).encode()
    signatures = {each["keyid"]: bytes.fromhex(each["sig"]) for each in metadata["signatures"]}
    needed = role["threshold"]
    by = [
        keyid
        for keyid in sorted({*role["keyids"]} & {*signatures})
        if is_signed(_public_der(keyid, keys[keyid], name), signatures[keyid], content)
    ]
    if type(needed) is not int or not 1 <= needed <= len(by):
        raise Refused(f"{name}: {len(by)} of {needed} keys signed it.")


def _public_der(keyid: str, key: Mapping[str, Any], name: str) -> bytes:
    """A P-256 key. Its id is the SHA-256 of its bytes, so that no key stands under two ids and is counted twice."""
    lines = str(key["keyval"]["public"]).strip().splitlines()
    der = base64.b64decode("".join(lines[1:-1]), validate=True)
    if key["scheme"] != "ecdsa-sha2-nistp256" or sha256(der) != keyid:
        raise Refused(f"{name}: the key {keyid} is no P-256 key under its own id.")
    return der


def _olpc(value: Any) -> str:
    """TUF's canonical JSON, which is what is signed: only quotation marks and backslashes are escaped."""
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return f'"{escaped}"'
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    if isinstance(value, int):
        return str(value)
    if isinstance(value, list):
        return f"[{','.join(map(_olpc, value))}]"
    if isinstance(value, dict):
        return f"{{{','.join(f'{_olpc(key)}:{_olpc(value[key])}' for key in sorted(value))}}}"
    raise ValueError("canonical JSON has no such value")


@dataclass(frozen=True)
class Signed:
    """What a statement says whose signature counts."""

    keyid: str
    files: int
    """How many files the index leads to."""


def signed_statement(bundle: bytes, trusted: BundleKeys, index_sha256: str) -> Signed:
    """The statement over the index. Raises Refused for a key that does not count, or a statement about another file."""
    parsed = json_object(bundle, SIGNATURE)
    keyid, envelope = parsed["verificationMaterial"]["publicKey"]["hint"], parsed["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"], validate=True)
    signature = base64.b64decode(envelope["signatures"][0]["sig"], validate=True)
    if spelled(_envelope(keyid, payload, signature)) + b"\n" != bundle:
        raise Refused(f"{SIGNATURE}: its bytes are not as they were written.")
    if keyid not in trusted.keys:
        raise Refused(
            f"{SIGNATURE}: the key {keyid} has not the role bundle in the trust root, or is revoked.",
            "Have the bundle signed anew, with a key of this role.",
        )
    if not is_signed(
        trusted.keys[keyid], signature, f"DSSEv1 {len(PAYLOAD)} {PAYLOAD} {len(payload)} ".encode() + payload
    ):
        raise Refused(f"{SIGNATURE}: the signature is not over this statement.")
    statement = json_object(payload, SIGNATURE)
    if (statement["_type"], statement["predicateType"]) != (STATEMENT, PREDICATE):
        raise Refused(f"{SIGNATURE}: the statement is not of the kind {PREDICATE}.")
    if statement["subject"] != [{"name": INDEX, "digest": {"sha256": index_sha256}}]:
        raise Refused(f"{INDEX}: these are not the bytes that were signed.")
    return Signed(keyid, int(statement["predicate"]["files"]))


def _envelope(keyid: str, payload: bytes, signature: bytes) -> dict[str, Any]:
    """A sigstore bundle with one signature, and nothing else."""
    return {
        "mediaType": SIGSTORE,
        "verificationMaterial": {"publicKey": {"hint": keyid}},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD,
            "signatures": [{"sig": base64.b64encode(signature).decode()}],
        },
    }
