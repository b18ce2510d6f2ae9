"""Comparing a bundle with what was signed: nothing changed, missing or extra, and no name that leads elsewhere.

A bundle is an OCI layout: `index.json` leads to one manifest, the manifest to the files, and each lies under
`blobs/sha256/` by its digest. `trust/` and `bundle.pyz` lie beside them as well, since they are needed first. A delta
names the index of the bundle that it adds to, and holds only what is not in that one. What belongs here: that. What
does not: whose signature counts (`trust.py`).
"""

import stat
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sovereign_pipeline.bundle.carried.reading import Refused, compare, json_object, moment, sha256, small_file, whole
from sovereign_pipeline.bundle.carried.trust import INDEX, SIGNATURE, TRUST, BundleKeys, bundle_keys, signed_statement

LAYOUT = b'{"imageLayoutVersion":"1.0.0"}'
INDEX_TYPE, MANIFEST_TYPE = "application/vnd.oci.image.index.v1+json", "application/vnd.oci.image.manifest.v1+json"
ARTIFACT_TYPE = "application/vnd.sovereign-pipeline.bundle.v1"
TITLE, CREATED = "org.opencontainers.image.title", "org.opencontainers.image.created"
ORIGIN, PUBLISHER = "sovereign-pipeline.origin", "sovereign-pipeline.publisher"
BASE, PLATFORM = "sovereign-pipeline.base", "sovereign-pipeline.platform"
OCI_LAYOUT, TOOL, BLOBS = "oci-layout", "bundle.pyz", "blobs/sha256"
FOLDERS = (TRUST, "blobs", BLOBS)
EMPTY = b"{}"
"""What OCI puts where an image has a configuration."""
HEX = frozenset("0123456789abcdef")


@dataclass(frozen=True)
class Carried:
    """A file in a bundle."""

    name: str
    sha256: str
    size: int
    origin: str
    """Where it came from, and what pins it."""
    publisher: str
    """Whose signature over it was verified when it was packed; empty: none was."""
    path: Path
    """Where its bytes lie: in this bundle, or in the one that a delta adds to."""


@dataclass(frozen=True)
class Bundle:
    """A bundle every byte of which was compared with what was signed."""

    directory: Path
    index_sha256: str
    created: str
    platform: str
    """For which Python and machine."""
    base: str | None
    """SHA-256 of the index of the bundle that this one adds to."""
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
    """Compare a bundle with what was signed; raises Refused naming the first thing that differs.

    Args:
        bases: of a delta: the bundle that it adds to, then the one that this one adds to, and so on.
        at_least: versions of root and targets seen before, from which nothing goes back.
        newer_than: the index of a bundle that was taken before; one that is no later is refused.
    """
    at = now or datetime.now(UTC)
    bundle: Bundle = whole(lambda: _verified(directory, root_sha256, bases, at, at_least), directory)
    if newer_than is not None:
        earlier = whole(lambda: _index(small_file(newer_than), newer_than)[0][CREATED], newer_than)
        if bundle.created <= earlier:
            raise Refused(
                f"{directory}: the bundle was made at {bundle.created}, and {newer_than} at {earlier}.",
                "Somebody put an older bundle back: take the newest one.",
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
            f"{directory / TRUST}: root {trusted.versions[0]} and targets {trusted.versions[1]} are older than root "
            f"{at_least[0]} and targets {at_least[1]}, which are in force here."
        )
    index = small_file(directory / INDEX)
    signed = signed_statement(small_file(directory / SIGNATURE), trusted, sha256(index))
    annotations, manifest = _index(index, directory / INDEX)
    created, base = annotations[CREATED], annotations.get(BASE)
    if moment(created, directory / INDEX) > now:
        raise Refused(
            f"{directory / INDEX}: it was made at {created}, which is after now.", "Set this machine's clock."
        )
    in_bases = _in_bases(base, created, bases, directory)
    compare(directory / BLOBS / manifest, manifest, None)
    files = tuple(_files(small_file(directory / BLOBS / manifest), directory, in_bases))
    if signed.files != len(files):
        raise Refused(f"{directory / INDEX}: it leads to {len(files)} files, and {signed.files} were signed.")
    plain = {each.name: each for each in files if each.name == TOOL or each.name.startswith(f"{TRUST}/")}
    blobs = {each.sha256 for each in files} | {manifest, sha256(EMPTY)}
    _assert_exactly(directory, {*there}, {*plain, *(f"{BLOBS}/{digest}" for digest in blobs - {*in_bases})})
    if TOOL not in plain or {*of_trust} != {*plain} - {TOOL}:
        raise Refused(f"{directory / INDEX}: it does not list {TOOL} and the trust root.")
    if small_file(directory / OCI_LAYOUT) != LAYOUT:
        raise Refused(f"{directory / OCI_LAYOUT}: it is not as a bundle has it.")
    compare(in_bases.get(sha256(EMPTY), directory / BLOBS / sha256(EMPTY)), sha256(EMPTY), len(EMPTY))
    compared = {(each.path, each.sha256, each.size) for each in files}
    compared |= {(directory / name, each.sha256, each.size) for name, each in plain.items()}
    for path, digest, size in sorted(compared):
        compare(path, digest, size)
    platform = str(annotations[PLATFORM])
    return Bundle(directory, sha256(index), created, platform, base, signed.keyid, trusted.versions, files)


def _entries(directory: Path, prefix: str = "") -> Iterator[tuple[str, Path]]:
    """Every file below a directory, by its name in the bundle. Raises Refused for a link, and what is no file."""
    if directory.is_symlink() or not directory.is_dir():
        raise Refused(f"{directory}: there is no bundle, or it is a link.", "Name the bundle's own directory.")
    for path in sorted(directory.iterdir()):
        mode, name = path.lstat().st_mode, f"{prefix}{path.name}"
        if stat.S_ISDIR(mode) and name in FOLDERS:
            yield from _entries(path, f"{name}/")
        elif stat.S_ISREG(mode):
            yield name, path
        else:
            raise Refused(f"{path}: it is a link, a folder or a device, and none belongs here.")


def _assert_exactly(directory: Path, there: set[str], listed: set[str]) -> None:
    expected = listed | {OCI_LAYOUT, INDEX, SIGNATURE}
    if missing := sorted(expected - there):
        raise Refused(f"{directory / missing[0]}: the file is missing.")
    if extra := sorted(there - expected):
        raise Refused(f"{directory / extra[0]}: the file was not signed, and nothing else may lie here.")


def _index(content: bytes, where: Path) -> tuple[dict[str, Any], str]:
    """The annotations of an index, and the digest of its one manifest."""
    index = json_object(content, where)
    listed = index["manifests"]
    if index["mediaType"] != INDEX_TYPE or len(listed) != 1 or listed[0]["artifactType"] != ARTIFACT_TYPE:
        raise Refused(f"{where}: this is no index of a bundle.")
    annotations: dict[str, Any] = index["annotations"]
    return annotations, _digest(listed[0], where)


def _digest(descriptor: Mapping[str, Any], where: Path) -> str:
    algorithm, _, digest = str(descriptor["digest"]).partition(":")
    if algorithm != "sha256" or len(digest) != 64 or {*digest} - HEX:
        raise Refused(f"{where}: {descriptor['digest']!a} is no SHA-256.")
    return digest


def _files(manifest: bytes, directory: Path, in_bases: Mapping[str, Path]) -> Iterator[Carried]:
    """The files of a manifest. Raises Refused for a name that leads elsewhere, or is there twice."""
    where = directory / INDEX
    parsed = json_object(manifest, where)
    if parsed["mediaType"] != MANIFEST_TYPE or _digest(parsed["config"], where) != sha256(EMPTY):
        raise Refused(f"{where}: its manifest is not that of a bundle.")
    taken: set[str] = set()
    folders: set[str] = set()
    for layer in parsed["layers"]:
        digest, notes, size = _digest(layer, where), layer["annotations"], layer["size"]
        name = notes[TITLE]
        if not is_safe(name) or type(size) is not int or size < 0:
            raise Refused(f"{where}: the file name {name!a} leads elsewhere, or the file has no size.")
        folded = name.casefold()
        above = set(_above(folded))
        if folded in taken | folders or above & taken:
            raise Refused(f"{where}: the file name {name!a} is there twice, or within another file's.")
        taken.add(folded)
        folders |= above
        path = in_bases.get(digest, directory / BLOBS / digest)
        yield Carried(name, digest, size, str(notes[ORIGIN]), str(notes[PUBLISHER]), path)


def is_safe(name: object) -> bool:
    """Whether a name leads to a file below the folder into which it is unpacked, on every file system."""
    return (
        isinstance(name, str)
        and unicodedata.normalize("NFC", name) == name
        and name.isprintable()
        and not {*name} & {"\\", ":"}
        and all(part == part.strip() and part not in ("", ".", "..") for part in name.split("/"))
    )


def _above(name: str) -> Iterator[str]:
    """The folders that a file's name has above it."""
    parts = name.split("/")
    return ("/".join(parts[:count]) for count in range(1, len(parts)))


@dataclass(frozen=True)
class Earlier:
    """What the index of an earlier bundle leads to; a delta leaves it out."""

    index_sha256: str
    created: str
    digests: frozenset[str]


def read_earlier(index: Path, trusted: BundleKeys) -> Earlier:
    """Of a bundle whose signature counts. Its manifest must lie beside the index; its other blobs need not."""
    return whole(lambda: _earlier(index, trusted), index)  # type: ignore[no-any-return]


def _earlier(index: Path, trusted: BundleKeys) -> Earlier:
    content, folder = small_file(index), index.parent
    signed_statement(small_file(folder / SIGNATURE), trusted, sha256(content))
    annotations, manifest = _index(content, index)
    compare(folder / BLOBS / manifest, manifest, None)
    listed = {each.sha256 for each in _files(small_file(folder / BLOBS / manifest), folder, {})}
    return Earlier(sha256(content), str(annotations[CREATED]), frozenset(listed | {manifest, sha256(EMPTY)}))


def _in_bases(base: object, created: str, bases: Sequence[Path], directory: Path) -> dict[str, Path]:
    """What a delta takes from the bundles below it: digest -> where it lies."""
    found: dict[str, Path] = {}
    above = directory
    for folder in bases:
        index = small_file(folder / INDEX)
        annotations, manifest = _index(index, folder / INDEX)
        if sha256(index) != base or annotations[CREATED] >= created:
            raise Refused(
                f"{folder}: {above} does not add to this bundle.",
                f"Name the bundle whose index has the SHA-256 {base}." if base else "It is whole: name no base of it.",
            )
        compare(folder / BLOBS / manifest, manifest, None)
        listed = {each.sha256 for each in _files(small_file(folder / BLOBS / manifest), folder, {})}
        for digest in listed | {manifest, sha256(EMPTY)}:
            if digest not in found and (folder / BLOBS / digest).exists():
                found[digest] = folder / BLOBS / digest
        above, base, created = folder, annotations.get(BASE), annotations[CREATED]
    if base is not None:
        raise Refused(
            f"{above}: it adds to another bundle, whose index has the SHA-256 {base}.",
            "Name that bundle's folder as its base.",
        )
    return found
