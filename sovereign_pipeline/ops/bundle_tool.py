"""Verify and install a bundle with only Python 3.11. A bundle contains this file as `bundle.pyz`: `python3.11 -I
bundle.pyz verify DIR --trust-root SHA256`. This file imports no other module of the package."""

import argparse
import base64
import hashlib
import json
import os
import platform
import re
import shutil
import stat
import subprocess
import sys
import tarfile
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

LARGEST_JSON = 64 << 20
BLOCK = 1 << 20
TIME = "%Y-%m-%dT%H:%M:%SZ"
AGAIN = "Copy the bundle again from the machine that packed it, and find out who changed this copy."


class Refused(Exception):
    """Raised when a bundle differs from the signed content, or cannot be installed on this machine."""

    def __init__(self, message: str, hint: str = AGAIN) -> None:
        super().__init__(message)
        self.message, self.hint = on_one_line(message), on_one_line(hint)


def on_one_line(text: str) -> str:
    """Replace unprintable characters with "?", so that text from a bundle cannot move the cursor or begin a line."""
    return "".join(each if each.isprintable() else "?" for each in text)


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a regular file. Raises Refused for a symbolic link, another type of file, or a file that cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise Refused(f"{path}: the file cannot be read ({error.strerror}).") from None
    with os.fdopen(descriptor, "rb") as stream:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise Refused(f"{path}: this is not a regular file.")
        yield stream


def small_file(path: Path) -> bytes:
    with opened(path) as stream:
        content = stream.read(LARGEST_JSON + 1)
    if len(content) > LARGEST_JSON:
        raise Refused(f"{path}: the file is larger than {LARGEST_JSON:,} bytes.")
    return content


def each_block(path: Path, digest: str, size: int | None) -> Iterator[bytes]:
    """Yield the blocks of a file. Raises Refused after the last block if the file's digest or size is wrong."""
    hasher, read = hashlib.sha256(), 0
    with opened(path) as stream:
        while block := stream.read(BLOCK):
            hasher.update(block)
            read += len(block)
            yield block
    if hasher.hexdigest() != digest or size not in (None, read):
        raise Refused(f"{path}: its bytes differ from the signed ones ({read} bytes read, {size} signed).")


def compare(path: Path, digest: str, size: int | None) -> None:
    for _ in each_block(path, digest, size):
        pass


def json_object(content: bytes, where: object) -> dict[str, Any]:
    """Parse a JSON object. Raises Refused for any other JSON value. Also rejects a repeated key, because parsers treat
    repeated keys in different ways."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise ValueError("a key is repeated")
        return found

    try:
        parsed = json.loads(content, object_pairs_hook=once)
    except (ValueError, RecursionError) as error:
        raise Refused(f"{where}: this is not valid JSON, or a key is repeated ({type(error).__name__}).") from None
    if not isinstance(parsed, dict):
        raise Refused(f"{where}: this is not a JSON object.")
    return parsed


def moment(text: object, where: object) -> datetime:
    try:
        return datetime.strptime(str(text), TIME).replace(tzinfo=UTC)
    except ValueError:
        raise Refused(f"{where}: {text!a} is not a UTC time such as 2026-01-31T12:00:00Z.") from None


def spelled(content: Any) -> bytes:
    """Return the canonical JSON to sign or hash: sorted keys, no spaces, UTF-8."""
    return json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def whole(check: Callable[[], Any], where: object) -> Any:
    """Run a check and return its result. Raises Refused if missing or malformed data causes an error in the check."""
    try:
        return check()
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, RecursionError) as error:
        raise Refused(f"{where}: the content is malformed ({type(error).__name__}).") from None


P = 0xFFFFFFFF00000001000000000000000000000000FFFFFFFFFFFFFFFFFFFFFFFF
N = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
A = P - 3
B = 0x5AC635D8AA3A93E7B3EBBD55769886BC651D06B0CC53B0F63BCE3C3E27D2604B
Point = tuple[int, int] | None
"""A point of the curve P-256; None is the point at infinity."""
G: Point = (
    0x6B17D1F2E12C4247F8BCE6E563A440F277037D812DEB33A0F4A13945D898C296,
    0x4FE342E2FE1A7F9B8EE7EB4A7C0F9E162BCE33576B315ECECBB6406837BF51F5,
)
SPKI = bytes.fromhex("3059301306072a8648ce3d020106082a8648ce3d03010703420004")
"""Prefix of a SubjectPublicKeyInfo of P-256; an uncompressed point follows."""


def is_signed(public_der: bytes, signature: bytes, content: bytes) -> bool:
    """Return whether `signature` is the key's ECDSA signature over `content`. The key (SubjectPublicKeyInfo) and the
    signature are in DER."""
    key, numbers = _point(public_der), _numbers(signature)
    if key is None or numbers is None:
        return False
    r, s = numbers
    if not (0 < r < N and 0 < s < N):
        return False
    digest = int.from_bytes(hashlib.sha256(content).digest(), "big")
    inverse = pow(s, -1, N)
    found = _sum(_times(digest * inverse % N, G), _times(r * inverse % N, key))
    return found is not None and found[0] % N == r


def _point(public_der: bytes) -> Point:
    """Return the point of a public key, or None if the bytes are not a P-256 key or the point is not on the curve."""
    if len(public_der) != len(SPKI) + 64 or not public_der.startswith(SPKI):
        return None
    x, y = (int.from_bytes(public_der[start : start + 32], "big") for start in (len(SPKI), len(SPKI) + 32))
    on_curve = x < P and y < P and (y * y - (x * x * x + A * x + B)) % P == 0
    return (x, y) if on_curve else None


def _numbers(signature: bytes) -> tuple[int, int] | None:
    """Return r and s of a signature, or None if the signature is not strict DER."""
    if len(signature) < 8 or signature[0] != 0x30 or signature[1] != len(signature) - 2:
        return None
    numbers, at = [], 2
    for _ in range(2):
        if len(signature) < at + 2 or signature[at] != 0x02:
            return None
        length = signature[at + 1]
        written = signature[at + 2 : at + 2 + length]
        if length == 0 or len(written) != length or written[0] & 0x80:
            return None  # truncated, or negative
        if length > 1 and written[0] == 0 and not written[1] & 0x80:
            return None  # superfluous leading zero
        numbers.append(int.from_bytes(written, "big"))
        at += 2 + length
    return (numbers[0], numbers[1]) if at == len(signature) else None


def _sum(one: Point, other: Point) -> Point:
    if one is None or other is None:
        return other if one is None else one
    if one[0] == other[0] and (one[1] + other[1]) % P == 0:
        return None
    if one == other:
        slope = (3 * one[0] * one[0] + A) * pow(2 * one[1], -1, P) % P
    else:
        slope = (other[1] - one[1]) * pow(other[0] - one[0], -1, P) % P
    x = (slope * slope - one[0] - other[0]) % P
    return x, (slope * (one[0] - x) - one[1]) % P


def _times(count: int, point: Point) -> Point:
    result: Point = None
    while count:
        if count & 1:
            result = _sum(result, point)
        point, count = _sum(point, point), count >> 1
    return result


STATEMENT, PREDICATE = "https://in-toto.io/Statement/v1", "https://sovereign-pipeline.example/bundle/v1"
SIGSTORE, PAYLOAD = "application/vnd.dev.sigstore.bundle.v0.3+json", "application/vnd.in-toto+json"
INDEX, SIGNATURE, TRUST = "index.json", "index.json.sigstore.json", "trust"
ROOTS = re.compile(r"[1-9][0-9]{0,5}\.root\.json")


@dataclass(frozen=True)
class BundleKeys:
    """The keys that may sign a bundle now, and the versions of the trust root that lists these keys."""

    versions: tuple[int, int]
    """Versions of root and targets."""
    keys: Mapping[str, bytes]
    """Mapping of key id to the key's SubjectPublicKeyInfo in DER."""


def bundle_keys(files: Mapping[str, bytes], root_sha256: str, now: datetime) -> BundleKeys:
    """Verify a trust root and return the keys with the role `bundle` that are not revoked. Raises Refused if the trust
    root does not begin with the root `root_sha256`, is not validly signed, or has expired.

    Args:
        files: mapping of each file's name to its content.
    """
    count = sum(ROOTS.fullmatch(name) is not None for name in files)
    if {*files} != {"root.json", "targets.json", *(f"{number}.root.json" for number in range(1, count + 1))}:
        raise Refused(f"{TRUST}: the folder must contain targets.json, root.json, every root from 1, and nothing else.")
    if count == 0 or sha256(files["1.root.json"]) != root_sha256.lower():
        raise Refused(f"{TRUST}/1.root.json: this is not the expected trust root. Its SHA-256 is not {root_sha256}.")
    root = _newest_root([files[f"{number}.root.json"] for number in range(1, count + 1)])
    if files["root.json"] != files[f"{count}.root.json"]:
        raise Refused(f"{TRUST}/root.json: this is not the newest root, {count}.root.json.")
    name = f"{TRUST}/targets.json"
    targets = json_object(files["targets.json"], name)
    _assert_threshold(targets, root["keys"], root["roles"]["targets"], name)
    signed = targets["signed"]
    role = next((each for each in signed["delegations"]["roles"] if each["name"] == "bundle"), None)
    if signed["_type"] != "targets" or signed["root_version"] > count:
        raise Refused(f"{name}: it was signed under root {signed['root_version']}, but the newest root is {count}.")
    if role is None or role["threshold"] != 1:
        raise Refused(f"{name}: the file has no role `bundle` with a threshold of one key.")
    for expires in (root["expires"], signed["expires"], role["expires"]):
        if now >= moment(expires, name):
            raise Refused(
                f"{name}: the trust root expired on {expires}.",
                "Have the holders of the root keys sign the trust root again on the offline machine.",
            )
    known = signed["delegations"]["keys"]
    counting = [keyid for keyid in role["keyids"] if known[keyid].get("revoked_from") is None]
    return BundleKeys(
        (count, int(signed["version"])), {each: _public_der(each, known[each], name) for each in counting}
    )


def _newest_root(roots: list[bytes]) -> dict[str, Any]:
    """Verify the chain of roots and return the newest root. Each root must be signed by its own keys and by the keys of
    the previous root."""
    before: dict[str, Any] = {}
    for number, content in enumerate(roots, start=1):
        name = f"{TRUST}/{number}.root.json"
        root = json_object(content, name)
        signed: dict[str, Any] = root["signed"]
        for by in (before, signed) if before else (signed,):
            _assert_threshold(root, by["keys"], by["roles"]["root"], name)
        if (signed["_type"], signed["version"]) != ("root", number):
            raise Refused(f"{name}: the content is {signed['_type']} {signed['version']}, not root {number}.")
        before = signed
    return before


def _assert_threshold(metadata: Mapping[str, Any], keys: Mapping[str, Any], role: Mapping[str, Any], name: str) -> None:
    """Raise Refused unless as many of the role's keys signed the metadata as the role's threshold requires."""
    content = _olpc(metadata["signed"]).encode()
    signatures = {each["keyid"]: bytes.fromhex(each["sig"]) for each in metadata["signatures"]}
    needed = role["threshold"]
    by = [
        keyid
        for keyid in sorted({*role["keyids"]} & {*signatures})
        if is_signed(_public_der(keyid, keys[keyid], name), signatures[keyid], content)
    ]
    if type(needed) is not int or not 1 <= needed <= len(by):
        raise Refused(f"{name}: {len(by)} of the {needed} required keys signed this file.")


def _public_der(keyid: str, key: Mapping[str, Any], name: str) -> bytes:
    """Return a P-256 key in DER. Raises Refused unless its id is its SHA-256, so that no key counts under two ids."""
    lines = str(key["keyval"]["public"]).strip().splitlines()
    der = base64.b64decode("".join(lines[1:-1]), validate=True)
    if key["scheme"] != "ecdsa-sha2-nistp256" or sha256(der) != keyid:
        raise Refused(f"{name}: the key {keyid} is not a P-256 key, or its id is wrong.")
    return der


def _olpc(value: Any) -> str:
    """Return the canonical JSON that TUF signs. Only quotation marks and backslashes are escaped."""
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
    """The content of the signed statement about a bundle's index, after verification."""

    keyid: str
    files: int


def signed_statement(bundle: bytes, trusted: BundleKeys, index_sha256: str) -> Signed:
    """Verify the statement about the index. Raises Refused if no trusted key signed it, or it names another index."""
    parsed = json_object(bundle, SIGNATURE)
    keyid, envelope = parsed["verificationMaterial"]["publicKey"]["hint"], parsed["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"], validate=True)
    signature = base64.b64decode(envelope["signatures"][0]["sig"], validate=True)
    if spelled(_envelope(keyid, payload, signature)) + b"\n" != bundle:
        raise Refused(f"{SIGNATURE}: the file is not in the canonical form that the signer writes.")
    if keyid not in trusted.keys:
        raise Refused(
            f"{SIGNATURE}: the key {keyid} does not have the role bundle in the trust root, or is revoked.",
            "Have the bundle packed again and signed with a key of this role.",
        )
    if not is_signed(
        trusted.keys[keyid], signature, f"DSSEv1 {len(PAYLOAD)} {PAYLOAD} {len(payload)} ".encode() + payload
    ):
        raise Refused(f"{SIGNATURE}: the signature is not valid for this statement.")
    statement = json_object(payload, SIGNATURE)
    if (statement["_type"], statement["predicateType"]) != (STATEMENT, PREDICATE):
        raise Refused(f"{SIGNATURE}: the statement's type is not {PREDICATE}.")
    if statement["subject"] != [{"name": INDEX, "digest": {"sha256": index_sha256}}]:
        raise Refused(f"{INDEX}: its SHA-256 differs from the signed one.")
    return Signed(keyid, int(statement["predicate"]["files"]))


def _envelope(keyid: str, payload: bytes, signature: bytes) -> dict[str, Any]:
    """Return a sigstore bundle that has one signature and no optional fields."""
    return {
        "mediaType": SIGSTORE,
        "verificationMaterial": {"publicKey": {"hint": keyid}},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD,
            "signatures": [{"sig": base64.b64encode(signature).decode()}],
        },
    }


LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
INDEX_TYPE, MANIFEST_TYPE = "application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json"
ARTIFACT_TYPE = "application/vnd.sovereign-pipeline.bundle.v1"
TITLE, CREATED = "org.opencontainers.image.title", "org.opencontainers.image.created"
ORIGIN, PUBLISHER = "sovereign-pipeline.origin", "sovereign-pipeline.publisher"
BASE, PLATFORM = "sovereign-pipeline.base", "sovereign-pipeline.platform"
OCI_LAYOUT, TOOL, BLOBS = "oci-layout", "bundle.pyz", "blobs/sha256"
FOLDERS = (TRUST, "blobs", BLOBS)
EMPTY = b"{}"
"""The empty configuration of an OCI image."""
HEX = frozenset("0123456789abcdef")
LONGEST_NAME, LONGEST_PART, MOST_FOLDERS = 1_000, 255, 50
"""Limits of a file's name: bytes, bytes between two slashes, and number of folders."""


@dataclass(frozen=True)
class Carried:
    name: str
    sha256: str
    size: int
    origin: str
    """Origin of the file, and the file that pins its digest."""
    publisher: str
    """Publisher whose signature was verified during packing; empty if there was none."""
    path: Path
    """Path of the file's bytes, in this bundle or, for a delta, in one of its bases."""


@dataclass(frozen=True)
class Bundle:
    """A bundle whose bytes all match the signed digests."""

    directory: Path
    index_sha256: str
    created: str
    platform: str
    """Python version and machine type of the wheels."""
    base: str | None
    """For a delta, the SHA-256 of its base's index; None for a complete bundle."""
    keyid: str
    trust_versions: tuple[int, int]
    files: tuple[Carried, ...]


def verify(
    directory: Path,
    root_sha256: str,
    bases: Sequence[Path] = (),
    *,
    now: datetime | None = None,
    at_least: tuple[int, int] = (1, 1),
    newer_than: Path | None = None,
) -> Bundle:
    """Verify a bundle's trust root, signature and every file. Raises Refused, which states the first mismatch.

    Args:
        bases: for a delta, the folder of its base bundle. If the base is a delta too, then the folder of the base's
            base, and so on.
        at_least: minimum versions of root and targets. An older trust root is rejected.
        newer_than: index of a bundle that was verified earlier. A bundle that is not newer is rejected.
    """
    at = now or datetime.now(UTC)
    bundle: Bundle = whole(lambda: _verified(directory, root_sha256, bases, at, at_least), directory)
    if newer_than is not None:
        earlier = whole(lambda: _index(small_file(newer_than), newer_than)[0][CREATED], newer_than)
        if bundle.created <= earlier:
            raise Refused(
                f"{directory}: the bundle was packed at {bundle.created}, which is not after {newer_than} ({earlier}).",
                "Use a newer bundle. If you expected a newer one, find out who replaced it.",
            )
    return bundle


def _verified(
    directory: Path, root_sha256: str, bases: Sequence[Path], now: datetime, at_least: tuple[int, int]
) -> Bundle:
    there = dict(_entries(directory))
    of_trust = {name: small_file(path) for name, path in there.items() if name.startswith(f"{TRUST}/")}
    trusted = bundle_keys({name.partition("/")[2]: content for name, content in of_trust.items()}, root_sha256, now)
    if trusted.versions[0] < at_least[0] or trusted.versions[1] < at_least[1]:
        raise Refused(
            f"{directory / TRUST}: root {trusted.versions[0]} and targets {trusted.versions[1]} are older than this "
            f"installation's root {at_least[0]} and targets {at_least[1]}."
        )
    index = small_file(directory / INDEX)
    signed = signed_statement(small_file(directory / SIGNATURE), trusted, sha256(index))
    annotations, manifest = _index(index, directory / INDEX)
    created, base = annotations[CREATED], annotations.get(BASE)
    if moment(created, directory / INDEX) > now:
        raise Refused(
            f"{directory / INDEX}: the bundle was packed at {created}, which is in the future.",
            "Correct this machine's clock.",
        )
    in_bases = _in_bases(base, created, bases, directory)
    compare(directory / BLOBS / manifest, manifest, None)
    files = tuple(_files(small_file(directory / BLOBS / manifest), directory, in_bases))
    if signed.files != len(files):
        raise Refused(f"{directory / INDEX}: the index lists {len(files)} files, but {signed.files} were signed.")
    plain = {each.name: each for each in files if each.name == TOOL or each.name.startswith(f"{TRUST}/")}
    blobs = {each.sha256 for each in files} | {manifest, sha256(EMPTY)}
    _assert_exactly(directory, {*there}, {*plain, *(f"{BLOBS}/{digest}" for digest in blobs - {*in_bases})})
    if TOOL not in plain or {*of_trust} != {*plain} - {TOOL}:
        raise Refused(f"{directory / INDEX}: the index does not list {TOOL} and exactly the trust root's files.")
    if small_file(directory / OCI_LAYOUT) != LAYOUT:
        raise Refused(f"{directory / OCI_LAYOUT}: the content is not {LAYOUT.decode()}.")
    compare(in_bases.get(sha256(EMPTY), directory / BLOBS / sha256(EMPTY)), sha256(EMPTY), len(EMPTY))
    compared = {(each.path, each.sha256, each.size) for each in files}
    compared |= {(directory / name, each.sha256, each.size) for name, each in plain.items()}
    for path, digest, size in sorted(compared):
        compare(path, digest, size)
    platform = str(annotations[PLATFORM])
    return Bundle(directory, sha256(index), created, platform, base, signed.keyid, trusted.versions, files)


def _entries(directory: Path, prefix: str = "") -> Iterator[tuple[str, Path]]:
    """Yield each file's name in the bundle and its path. Raises Refused for links and special files."""
    if directory.is_symlink() or not directory.is_dir():
        raise Refused(f"{directory}: this is not a directory, or it is a link.", "Name the bundle's own directory.")
    for path in sorted(directory.iterdir()):
        mode, name = path.lstat().st_mode, f"{prefix}{path.name}"
        if stat.S_ISDIR(mode) and name in FOLDERS:
            yield from _entries(path, f"{name}/")
        elif stat.S_ISREG(mode):
            yield name, path
        else:
            raise Refused(f"{path}: this is a link, a device or an unexpected folder, which a bundle must not contain.")


def _assert_exactly(directory: Path, there: set[str], listed: set[str]) -> None:
    expected = listed | {OCI_LAYOUT, INDEX, SIGNATURE}
    if missing := sorted(expected - there):
        raise Refused(f"{directory / missing[0]}: the file is missing.")
    if extra := sorted(there - expected):
        raise Refused(f"{directory / extra[0]}: the file was not signed. A bundle may contain only signed files.")


def _index(content: bytes, where: Path) -> tuple[dict[str, Any], str]:
    """Return the annotations of an index, and the digest of the only manifest in it."""
    index = json_object(content, where)
    listed = index["manifests"]
    if index["mediaType"] != INDEX_TYPE or len(listed) != 1 or listed[0]["artifactType"] != ARTIFACT_TYPE:
        raise Refused(f"{where}: this is not the index of a bundle.")
    annotations: dict[str, Any] = index["annotations"]
    return annotations, _digest(listed[0], where)


def _digest(descriptor: Mapping[str, Any], where: Path) -> str:
    algorithm, _, digest = str(descriptor["digest"]).partition(":")
    if algorithm != "sha256" or len(digest) != 64 or {*digest} - HEX:
        raise Refused(f"{where}: {descriptor['digest']!a} is not a SHA-256.")
    return digest


def _files(manifest: bytes, directory: Path, in_bases: Mapping[str, Path]) -> Iterator[Carried]:
    """Yield the files of a manifest. Raises Refused for an unsafe or repeated name."""
    where = directory / INDEX
    parsed = json_object(manifest, where)
    if parsed["mediaType"] != MANIFEST_TYPE or _digest(parsed["config"], where) != sha256(EMPTY):
        raise Refused(f"{where}: the manifest is not the manifest of a bundle.")
    taken: set[str] = set()
    folders: set[str] = set()
    for layer in parsed["layers"]:
        digest, notes, size = _digest(layer, where), layer["annotations"], layer["size"]
        name = notes[TITLE]
        if not is_safe(name) or type(size) is not int or size < 0:
            raise Refused(f"{where}: the file name {_short(name)} is unsafe, or the file has no size.")
        folded = str(place_of(name)).casefold()
        above = set(_above(folded))
        if folded in taken | folders or above & taken:
            raise Refused(f"{where}: the file name {_short(name)} is listed twice, or lies below another file's path.")
        taken.add(folded)
        folders |= above
        path = in_bases.get(digest, directory / BLOBS / digest)
        yield Carried(name, digest, size, str(notes[ORIGIN]), str(notes[PUBLISHER]), path)


def _short(name: object) -> str:
    return ascii(name)[:200]


def is_safe(name: object) -> bool:
    """Return whether a file name is relative, does not leave its folder, and is valid on every file system."""
    return (
        isinstance(name, str)
        and name.isprintable()
        and len(name.encode()) <= LONGEST_NAME
        and name.count("/") <= MOST_FOLDERS
        and unicodedata.normalize("NFC", name) == name
        and not {*name} & {"\\", ":"}
        and all(part == part.strip() and part not in ("", ".", "..") for part in name.split("/"))
        and all(len(part.encode()) <= LONGEST_PART for part in name.split("/"))
    )


def _above(name: str) -> Iterator[str]:
    parts = name.split("/")
    return ("/".join(parts[:count]) for count in range(1, len(parts)))


@dataclass(frozen=True)
class Earlier:
    """An earlier bundle. A delta omits the files of this bundle."""

    index_sha256: str
    created: str
    digests: frozenset[str]


def read_earlier(index: Path, trusted: BundleKeys) -> Earlier:
    """Verify an earlier bundle's signature, index and manifest, without its files, and return what they state."""
    return whole(lambda: _earlier(index, trusted), index)  # type: ignore[no-any-return]


def _earlier(index: Path, trusted: BundleKeys) -> Earlier:
    content, folder = small_file(index), index.parent
    signed_statement(small_file(folder / SIGNATURE), trusted, sha256(content))
    annotations, manifest = _index(content, index)
    compare(folder / BLOBS / manifest, manifest, None)
    listed = {each.sha256 for each in _files(small_file(folder / BLOBS / manifest), folder, {})}
    return Earlier(sha256(content), str(annotations[CREATED]), frozenset(listed | {manifest, sha256(EMPTY)}))


def _in_bases(base: object, created: str, bases: Sequence[Path], directory: Path) -> dict[str, Path]:
    """Return the path of each blob in the bases of a delta, by digest. Raises Refused if a base is wrong or missing."""
    found: dict[str, Path] = {}
    above = directory
    for folder in bases:
        index = small_file(folder / INDEX)
        annotations, manifest = _index(index, folder / INDEX)
        if sha256(index) != base or annotations[CREATED] >= created:
            raise Refused(
                f"{folder}: this bundle is not the base of {above}.",
                f"Use the bundle whose index has the SHA-256 {base}."
                if base
                else f"{above} is a complete bundle, so name no further base.",
            )
        compare(folder / BLOBS / manifest, manifest, None)
        listed = {each.sha256 for each in _files(small_file(folder / BLOBS / manifest), folder, {})}
        for digest in listed | {manifest, sha256(EMPTY)}:
            if digest not in found and (folder / BLOBS / digest).exists():
                found[digest] = folder / BLOBS / digest
        above, base, created = folder, annotations.get(BASE), annotations[CREATED]
    if base is not None:
        raise Refused(
            f"{above}: this is a delta, but its base was not named: the bundle whose index has the SHA-256 {base}.",
            "Name that bundle's folder as a base.",
        )
    return found


WHEELS, SOURCE, ENVIRONMENT = "wheels", "release/source.tar", "release/.venv"
READY = f"{ENVIRONMENT}/.ready"
"""Empty file that signals to the release's Makefile that the environment is complete."""
WHEEL = re.compile(r"([A-Za-z0-9_.]+)-([A-Za-z0-9_.+!]+)(?:-[0-9][^-]*)?-[^-]+-[^-]+-[^-]+\.whl")
PLACES: Mapping[str, str] = {
    TRUST: "data/trust",
    "configuration": "data",
    "models": "home/models",
    "suites": "home/suites",
    WHEELS: ".wheels",
}
"""Maps a folder in the bundle to its folder below the target. Files in unlisted folders keep their path."""
SETTINGS = "environment"
"""File with environment variables below the target, in the format of systemd's `EnvironmentFile`."""
SAFE_LINKS_NOTE = "Pack the release again. Its archive may contain only files and folders."

Tell = Callable[[str], None]


def this_platform() -> str:
    """Return the Python version and machine type that a bundle's wheels must match."""
    return f"cpython-{sys.version_info[0]}.{sys.version_info[1]}-{sys.platform}-{platform.machine()}"


def install(bundle: Bundle, target: Path, tell: Tell) -> Path:
    """Install a verified bundle to a new folder, and return the environment's folder. Raises Refused if the target
    exists, the bundle is for another platform, or a step fails. A failed installation is removed. The target must be
    the final location, because an environment cannot be moved."""
    if bundle.platform != this_platform():
        raise Refused(
            f"The bundle is for {bundle.platform}, but this machine is {this_platform()}.",
            "Pack a bundle for this machine.",
        )
    if not hasattr(tarfile, "data_filter"):
        raise Refused(
            f"Python {platform.python_version()} cannot unpack archives safely: it does not check file names.",
            "Install with Python 3.11.4 or a later 3.11.",
        )
    try:
        target.mkdir(parents=True)
    except FileExistsError:
        raise Refused(
            f"{target}: the target exists already. An installation never overwrites files.", "Choose a new folder."
        ) from None
    try:
        _install(bundle, target.resolve(), tell)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    return target / ENVIRONMENT


def _install(bundle: Bundle, target: Path, tell: Tell) -> None:
    tell(f"copying {len(bundle.files)} files")
    for carried in bundle.files:
        _copy(carried, target / place_of(carried.name))
    source = target / SOURCE
    tell("unpacking the release")
    _unpack(source, source.parent)
    wheels = [each for each in bundle.files if each.name.startswith(f"{WHEELS}/")]
    requirements = target / PLACES[WHEELS] / "requirements.txt"
    requirements.write_text("".join(f"{line}\n" for line in requirement_lines(wheels)))
    tell(f"installing {len(wheels)} wheels into {target / ENVIRONMENT}")
    _run(sys.executable, "-I", "-m", "venv", str(target / ENVIRONMENT), target=target)
    pip = (str(target / ENVIRONMENT / "bin" / "python"), "-I", "-m", "pip", "--isolated", "--disable-pip-version-check")
    alone = ("--no-index", "--no-deps", "--no-cache-dir", "--quiet")
    links = ("--find-links", str(requirements.parent))
    _run(*pip, "install", *alone, *links, "--require-hashes", "-r", str(requirements), target=target)
    _run(*pip, "install", *alone, "--no-build-isolation", "--editable", str(source.parent), target=target)
    _run(*pip, "check", target=target)
    (target / READY).touch()
    shutil.rmtree(requirements.parent)
    source.unlink()
    with (target / INDEX).open("xb") as stream:  # kept for `--newer-than` of the next bundle
        stream.writelines(each_block(bundle.directory / INDEX, bundle.index_sha256, None))
    variables = {"SOVEREIGN_HOME": target / "home", "SOVEREIGN_DATA": target / "data"}
    (target / SETTINGS).write_text("".join(f"{name}={path}\n" for name, path in variables.items()))


def place_of(name: str) -> PurePosixPath:
    folder, _, rest = name.partition("/")
    return PurePosixPath(PLACES.get(folder, folder), rest) if rest else PurePosixPath(name)


def _copy(carried: Carried, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    with to.open("xb") as stream:
        for block in each_block(carried.path, carried.sha256, carried.size):
            stream.write(block)


def _unpack(archive: Path, into: Path) -> None:
    """Unpack an archive. Raises Refused if the archive is malformed, or contains a link, a device or an unsafe name."""
    try:
        with tarfile.open(archive, "r:") as opened:
            for member in opened:
                if not (member.isreg() or member.isdir()) or not is_safe(member.name):
                    problem = f"{SOURCE}: {_short(member.name)} is a link or a device, or has an unsafe name."
                    raise Refused(problem, SAFE_LINKS_NOTE)
                opened.extract(member, into, filter="data")
    except (tarfile.TarError, ValueError, RecursionError) as error:
        raise Refused(f"{SOURCE}: the archive cannot be unpacked ({type(error).__name__}).", SAFE_LINKS_NOTE) from None


def requirement_lines(wheels: list[Carried]) -> Iterator[str]:
    """Yield each wheel's requirement for pip. Raises Refused for a malformed file name, or a project's second wheel."""
    seen: set[str] = set()
    for carried in wheels:
        found = WHEEL.fullmatch(carried.name.partition("/")[2])
        if found is None:
            raise Refused(f"{carried.name}: this is not a wheel's file name.")
        project = re.sub(r"[-_.]+", "-", found[1]).lower()
        if project in seen:
            raise Refused(f"{carried.name}: the bundle contains more than one wheel of {project}.")
        seen.add(project)
        yield f"{project}=={found[2]} --hash=sha256:{carried.sha256}"


def _run(*command: str, target: Path) -> None:
    """Run pip or venv without this account's configuration (index, links, constraints)."""
    path = os.environ.get("PATH", os.defpath)
    alone = {"PATH": path, "HOME": str(target), "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, env=alone, cwd=target, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = " ".join((done.stdout + done.stderr).split())[-600:]
        raise Refused(f"{' '.join(command[3:6])} failed (status {done.returncode}): {said}", "Nothing was installed.")


def told(bundle: Bundle) -> Iterator[str]:
    """Return the lines that describe a verified bundle, each without a line break."""
    return map(on_one_line, _lines(bundle))


def _lines(bundle: Bundle) -> Iterator[str]:
    size = sum(each.size for each in bundle.files)
    yield f"verified: {len(bundle.files)} files, {size / 1e6:.1f} MB, for {bundle.platform}, packed {bundle.created}"
    yield f"  index    {bundle.index_sha256}" + (f", delta to {bundle.base}" if bundle.base else "")
    yield f"  signed   by the key {bundle.keyid} of the role bundle"
    yield f"  trusted  by root {bundle.trust_versions[0]}, targets {bundle.trust_versions[1]}"
    for (folder, origin), count in sorted(Counter((_folder(each.name), each.origin) for each in bundle.files).items()):
        yield f"  {folder}: {count} {'file' if count == 1 else 'files'}, {origin}"
    signed = Counter(each.publisher for each in bundle.files if each.publisher)
    for publisher, count in sorted(signed.items()):
        yield f"  files signed by their publisher: {count}, by {publisher}"
    yield f"  files without a publisher's signature: {len(bundle.files) - signed.total()}"


def _folder(name: str) -> str:
    return name.partition("/")[0]


def main(arguments: Sequence[str]) -> int:
    """Run the command line. Returns 0 for success, 1 for a rejected bundle, and 2 for wrong usage or a file error."""
    os.umask(0o077)  # only this account can read the installed files
    parser = argparse.ArgumentParser("bundle.pyz", description="Verify a bundle, or install from it without a network.")
    parser.add_argument("act", choices=("verify", "install"))
    parser.add_argument("bundle", type=Path, help="the bundle's folder")
    parser.add_argument("target", type=Path, nargs="?", help="for install: a folder that does not exist yet")
    parser.add_argument("--trust-root", required=True, metavar="SHA256", help="SHA-256 of the first root, from paper")
    parser.add_argument("--base", type=Path, action="append", default=[], help="for a delta: folder of its base bundle")
    parser.add_argument("--newer-than", type=Path, metavar="INDEX", help="reject a bundle not newer than this index's")
    given = parser.parse_args(arguments)
    if (given.act == "install") != (given.target is not None):
        parser.error("install needs a target, and verify takes none")
    try:
        bundle = verify(given.bundle, given.trust_root, given.base, newer_than=given.newer_than)
        _print(*told(bundle))
        if given.act == "install":
            _print(f"installed: {install(bundle, given.target, _print)}")
    except Refused as refused:
        sys.stderr.write(f"Refused: {refused.message}\nHint: {refused.hint}\n")
        return 1
    except OSError as error:
        said = on_one_line(f"{error.filename}: {error.strerror}")
        sys.stderr.write(f"{said}\nHint: Check the path, its permissions and the disk.\n")
        return 2
    return 0


def _print(*lines: str) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
