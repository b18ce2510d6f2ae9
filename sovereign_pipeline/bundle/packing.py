"""Writing a bundle: every file by its digest, the manifest that lists them, the index, and the signature over it.

What belongs here: the folder's form, as `carried/verifying.py` reads it. What does not: which files are carried
(`contents.py`).
"""

import hashlib
import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.errors import InputError, IntegrityError, SignInError
from sovereign_pipeline.base.files import BLOCK
from sovereign_pipeline.bundle.carried import trust as carried_trust
from sovereign_pipeline.bundle.carried import verifying
from sovereign_pipeline.bundle.carried.installing import this_platform
from sovereign_pipeline.bundle.carried.reading import TIME, Refused, sha256, spelled
from sovereign_pipeline.record.keys import Signer, der_of
from sovereign_pipeline.record.statements import BUNDLE, Statement, Subject, sign_statement
from sovereign_pipeline.record.trust_root import Trust

ROLE = "bundle"
PACKAGE = Path(__file__).resolve().parent.parent
OCTETS, EMPTY_TYPE = "application/octet-stream", "application/vnd.oci.empty.v1+json"
TOOL_MAIN = """import sys

from sovereign_pipeline.bundle.carried.__main__ import main

sys.exit(main(sys.argv[1:]))
"""
FIRST_DAY_OF_ZIP = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True)
class Content:
    """A file that is to be carried."""

    name: str
    """Its name in the bundle, such as `wheels/torch-2.13.0-….whl`."""
    source: Path | bytes
    origin: str
    """Where it comes from, and what pins it; for people."""
    publisher: str = ""
    """Whose signature over it was verified; empty: none was."""


def tool() -> Content:
    """`bundle.pyz`: what verifies and installs, for a machine that has Python alone. The same bytes each time."""
    archive = io.BytesIO()
    sources = {path.relative_to(PACKAGE.parent).as_posix(): path.read_bytes() for path in _sources_of_tool()}
    with zipfile.ZipFile(archive, "w") as opened:  # stored, so that a person can read it as it is
        for name, content in sorted({**sources, "__main__.py": TOOL_MAIN.encode()}.items()):
            opened.writestr(zipfile.ZipInfo(name, FIRST_DAY_OF_ZIP), content)
    return Content(verifying.TOOL, archive.getvalue(), "of this release")


def _sources_of_tool() -> list[Path]:
    room = PACKAGE / "bundle"
    return [PACKAGE / "__init__.py", room / "__init__.py", *sorted((room / "carried").glob("*.py"))]


def pack(
    out: Path,
    contents: Sequence[Content],
    signer: Signer,
    trust: Trust,
    *,
    since: Path | None = None,
    now: datetime | None = None,
) -> str:
    """Write a bundle into a folder that is not there yet. Returns the SHA-256 of its index.

    Args:
        contents: among them `bundle.pyz` and the trust root.
        since: the index of an earlier bundle; what that one leads to is left out.

    Raises SignInError for a key that may not sign bundles, and InputError.
    """
    trust.key(ROLE, signer.keyid)
    if not trust.counts(ROLE, signer.keyid, None):
        raise SignInError("This key of the role bundle is revoked.", "Use the one that replaced it.")
    created = (now or datetime.now(UTC)).strftime(TIME)
    base, left_out = _earlier(since, trust, created) if since is not None else (None, frozenset())
    blobs = out / verifying.BLOBS
    try:
        blobs.mkdir(parents=True)
    except FileExistsError:
        raise InputError(f"{out}: it is there already.", "Name a folder that is not there yet.") from None
    layers = [_layer(blobs, content, left_out) for content in sorted(contents, key=lambda each: each.name)]
    config = _descriptor(EMPTY_TYPE, verifying.EMPTY)
    manifest = spelled(
        {
            "schemaVersion": 2,
            "mediaType": verifying.MANIFEST_TYPE,
            "artifactType": verifying.ARTIFACT_TYPE,
            "config": config,
            "layers": layers,
        }
    )
    for blob in (verifying.EMPTY, manifest):
        if sha256(blob) not in left_out:
            (blobs / sha256(blob)).write_bytes(blob)
    index = spelled(
        {
            "schemaVersion": 2,
            "mediaType": verifying.INDEX_TYPE,
            "manifests": [
                {**_descriptor(verifying.MANIFEST_TYPE, manifest), "artifactType": verifying.ARTIFACT_TYPE},
            ],
            "annotations": {
                verifying.CREATED: created,
                verifying.PLATFORM: this_platform(),
                **({verifying.BASE: base} if base is not None else {}),
            },
        }
    )
    (out / verifying.OCI_LAYOUT).write_bytes(verifying.LAYOUT)
    (out / carried_trust.INDEX).write_bytes(index)
    statement = Statement((Subject(carried_trust.INDEX, sha256(index)),), BUNDLE, {"files": len(layers)})
    (out / carried_trust.SIGNATURE).write_bytes(sign_statement(signer, statement))
    for content in contents:
        if content.name == verifying.TOOL or content.name.startswith(f"{carried_trust.TRUST}/"):
            plain = out / content.name
            plain.parent.mkdir(exist_ok=True)
            plain.write_bytes(content.source if isinstance(content.source, bytes) else content.source.read_bytes())
    return sha256(index)


def _layer(blobs: Path, content: Content, left_out: frozenset[str]) -> dict[str, Any]:
    """Store a file by its digest, unless the earlier bundle has it. Returns its descriptor."""
    partial, hasher, size = blobs / ".partial", hashlib.sha256(), 0
    with partial.open("wb") as to:
        for block in _blocks(content.source):
            hasher.update(block)
            size += len(block)
            to.write(block)
    digest = hasher.hexdigest()
    if digest in left_out:
        partial.unlink()
    else:
        partial.replace(blobs / digest)
    notes = {
        verifying.TITLE: content.name,
        verifying.ORIGIN: content.origin,
        verifying.PUBLISHER: content.publisher,
    }
    return {"mediaType": OCTETS, "digest": f"sha256:{digest}", "size": size, "annotations": notes}


def _blocks(source: Path | bytes) -> Iterator[bytes]:
    if isinstance(source, bytes):
        yield source
        return
    with source.open("rb") as stream:
        while block := stream.read(BLOCK):
            yield block


def _descriptor(media_type: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": f"sha256:{sha256(content)}", "size": len(content)}


def _earlier(index: Path, trust: Trust, created: str) -> tuple[str, frozenset[str]]:
    """Digest of an earlier bundle's index, and those of everything that it leads to. Raises IntegrityError."""
    keys = {each.keyid: der_of(each.public_pem) for each in trust.keys(ROLE) if trust.counts(ROLE, each.keyid, None)}
    try:
        earlier = verifying.read_earlier(index, carried_trust.BundleKeys((1, 1), keys))
    except Refused as refused:
        raise IntegrityError(
            refused.message, "Name the index of a bundle as it was packed, or pack a whole one."
        ) from None
    if earlier.created >= created:
        raise IntegrityError(f"{index}: it was made at {earlier.created}, not before now.", "Set this machine's clock.")
    return earlier.index_sha256, frozenset(earlier.digests)
