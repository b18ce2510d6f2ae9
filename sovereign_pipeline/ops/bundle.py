"""Pack a bundle on a connected machine; verify and install it with the trust root of the receiving installation."""

import hashlib
import io
import os
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from sovereign_pipeline.base.errors import InputError, IntegrityError, NotFoundError, SignInError, SourceError
from sovereign_pipeline.base.files import BLOCK, file_sha256
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base_models.stages import load_card, model_directory
from sovereign_pipeline.base_models.stages import verify as verify_base_model
from sovereign_pipeline.ops import bundle_tool
from sovereign_pipeline.ops import bundle_tool as carried_trust
from sovereign_pipeline.ops.bundle_tool import TIME, Bundle, Refused, install, sha256, spelled, this_platform, verify
from sovereign_pipeline.ops.publishers import Content, with_publishers
from sovereign_pipeline.record.keys import Signer, der_of
from sovereign_pipeline.record.officers import TRUST, trust_root
from sovereign_pipeline.record.stage import Progress
from sovereign_pipeline.record.statements import BUNDLE, Statement, Subject, sign_statement
from sovereign_pipeline.record.trust_root import Trust, load_trust, read_files
from sovereign_pipeline.suites.cards import load_suite_card, suite_digest, suite_files, suite_folder, suite_names

ROLE = "bundle"
OCTETS, EMPTY_TYPE = "application/octet-stream", "application/vnd.oci.empty.v1+json"
FIRST_DAY_OF_ZIP = (1980, 1, 1, 0, 0, 0)


PUBLISHERS = "publishers"
"""Folder of `data/` with the keys and identities of trusted publishers."""
Torch = Literal["cpu", "cuda"]


def create(
    settings: Settings,
    project: Path,
    out: Path,
    signer: Signer,
    progress: Progress,
    *,
    torch: Torch = "cuda",
    since: Path | None = None,
    signatures: Path | None = None,
) -> Bundle:
    """Pack a bundle, then verify it as the receiver does.

    Args:
        project: the checkout of the release.
        since: index of an earlier bundle. If given, the new bundle is a delta to that bundle.
        signatures: folder of publishers' signatures.
    """
    trust = trust_root(settings)
    source = release(project)
    carried = [
        *(tool(), source),
        *trust_root_files(settings),
        *configuration(settings),
        *base_models(settings, progress),
        *suites(settings, progress),
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as aside:
        carried += wheels(project / "requirements", (f"torch-{torch}.txt", "runtime.txt"), Path(aside), progress)
        if signatures is not None:
            carried = with_publishers(carried, signatures, settings.data / PUBLISHERS)
        progress(f"packing {len(carried)} files")
        pack(out, carried, signer, trust, since=since)
    progress("verifying")
    return verified(settings, out, None, [since.parent] if since is not None else [])


def verified(
    settings: Settings,
    directory: Path,
    root_sha256: str | None,
    bases: Sequence[Path] = (),
    newer_than: Path | None = None,
) -> Bundle:
    """Verify a bundle with two implementations, `bundle_tool.py` and `record/`. Both must accept it.

    Raises IntegrityError if one rejects the bundle, if the bundle's trust root is older than this installation's, or if
    `root_sha256` differs from this installation's.

    Args:
        root_sha256: SHA-256 of the first root. If None, use this installation's trust root.
    """
    at_least = (1, 1)
    if (settings.data / TRUST).is_dir():
        trust = trust_root(settings)
        if root_sha256 not in (None, trust.root_sha256):
            raise IntegrityError(
                f"This installation's trust root has the SHA-256 {trust.root_sha256}, not {root_sha256}.",
                "Verify with this installation's trust root.",
            )
        at_least, root_sha256 = (trust.root_version, trust.targets_version), trust.root_sha256
    elif root_sha256 is None:
        trust_root(settings)  # raises the error for a missing trust root
    assert root_sha256 is not None
    try:
        bundle = verify(directory, root_sha256, bases, at_least=at_least, newer_than=newer_than)
    except Refused as refused:
        raise IntegrityError(refused.message, refused.hint) from None
    load_trust(directory / TRUST, root_sha256, at_least=at_least)
    return bundle


def installed(bundle: Bundle, target: Path, progress: Progress) -> Path:
    """Install a verified bundle and return the environment's folder. Raises IntegrityError if `install` fails."""
    try:
        return install(bundle, target, progress)
    except Refused as refused:
        raise IntegrityError(refused.message, refused.hint) from None


def pack(
    out: Path,
    contents: Sequence[Content],
    signer: Signer,
    trust: Trust,
    *,
    since: Path | None = None,
    now: datetime | None = None,
) -> str:
    """Write a bundle to a new folder. Returns the SHA-256 of its index.

    Args:
        contents: the files, including `bundle.pyz` and the trust root.
        since: index of an earlier bundle. Files of that bundle are omitted.

    Raises SignInError if the signer's key is revoked, and InputError if the folder exists. Raises IntegrityError if the
    key lacks the role `bundle`, or if the earlier bundle is not validly signed or not older.
    """
    trust.key(ROLE, signer.keyid)
    if not trust.counts(ROLE, signer.keyid, None):
        raise SignInError(f"The key for this bundle, {signer.keyid}, is revoked.", "Use the key that replaced it.")
    created = (now or datetime.now(UTC)).strftime(TIME)
    base, left_out = _earlier(since, trust, created) if since is not None else (None, frozenset())
    blobs = out / bundle_tool.BLOBS
    try:
        blobs.mkdir(parents=True)
    except FileExistsError:
        raise InputError(f"{out}: the folder exists already.", "Choose a new folder.") from None
    layers = [_layer(blobs, content, left_out) for content in sorted(contents, key=lambda each: each.name)]
    config = _descriptor(EMPTY_TYPE, bundle_tool.EMPTY)
    manifest = spelled(
        {
            "schemaVersion": 2,
            "mediaType": bundle_tool.MANIFEST_TYPE,
            "artifactType": bundle_tool.ARTIFACT_TYPE,
            "config": config,
            "layers": layers,
        }
    )
    for blob in (bundle_tool.EMPTY, manifest):
        if sha256(blob) not in left_out:
            (blobs / sha256(blob)).write_bytes(blob)
    index = spelled(
        {
            "schemaVersion": 2,
            "mediaType": bundle_tool.INDEX_TYPE,
            "manifests": [
                {**_descriptor(bundle_tool.MANIFEST_TYPE, manifest), "artifactType": bundle_tool.ARTIFACT_TYPE},
            ],
            "annotations": {
                bundle_tool.CREATED: created,
                bundle_tool.PLATFORM: this_platform(),
                **({bundle_tool.BASE: base} if base is not None else {}),
            },
        }
    )
    (out / bundle_tool.OCI_LAYOUT).write_bytes(bundle_tool.LAYOUT)
    (out / carried_trust.INDEX).write_bytes(index)
    statement = Statement((Subject(carried_trust.INDEX, sha256(index)),), BUNDLE, {"files": len(layers)})
    (out / carried_trust.SIGNATURE).write_bytes(sign_statement(signer, statement))
    for content in contents:
        if content.name == bundle_tool.TOOL or content.name.startswith(f"{carried_trust.TRUST}/"):
            plain = out / content.name
            plain.parent.mkdir(exist_ok=True)
            plain.write_bytes(content.source if isinstance(content.source, bytes) else content.source.read_bytes())
    return sha256(index)


def tool() -> Content:
    """Return `bundle.pyz`, which verifies and installs a bundle with Python alone. Its bytes are reproducible."""
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as opened:  # uncompressed, so that people can read it
        opened.writestr(zipfile.ZipInfo("__main__.py", FIRST_DAY_OF_ZIP), Path(bundle_tool.__file__).read_bytes())
    return Content(bundle_tool.TOOL, archive.getvalue(), "of this release")


def _layer(blobs: Path, content: Content, left_out: frozenset[str]) -> dict[str, Any]:
    """Store a file under its digest, unless `left_out` contains the digest. Returns the file's OCI descriptor."""
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
        bundle_tool.TITLE: content.name,
        bundle_tool.ORIGIN: content.origin,
        bundle_tool.PUBLISHER: content.publisher,
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
    """Return the digest of an earlier bundle's index and the digests of its files. Raises IntegrityError if that
    bundle's index is not validly signed, or not older than `created`."""
    keys = {each.keyid: der_of(each.public_pem) for each in trust.keys(ROLE) if trust.counts(ROLE, each.keyid, None)}
    try:
        earlier = bundle_tool.read_earlier(index, carried_trust.BundleKeys((1, 1), keys))
    except Refused as refused:
        raise IntegrityError(
            refused.message, "Use the unchanged index of an earlier bundle, or pack a complete bundle."
        ) from None
    if earlier.created >= created:
        raise IntegrityError(
            f"{index}: this earlier bundle was created at {earlier.created}, which is in the future.",
            "Correct this machine's clock.",
        )
    return earlier.index_sha256, frozenset(earlier.digests)


NOT_CARRIED = frozenset({"sources", TRUST})
"""Folders of `data/` that `configuration` leaves out: the documents, and the trust root, which is packed separately."""


def trust_root_files(settings: Settings) -> Iterator[Content]:
    for name, content in read_files(settings.data / TRUST).items():
        yield Content(f"trust/{name}", content, "signed by the holders of the root keys")


def configuration(settings: Settings) -> Iterator[Content]:
    """Yield the files of `data/`, except base models and the folders in `NOT_CARRIED`. Raises InputError for a symbolic
    link."""
    models = [model_directory(settings, load_card(settings, name)) for name in _cards(settings)]
    for path in sorted(settings.data.rglob("*")):
        relative = path.relative_to(settings.data)
        if relative.parts[0] in NOT_CARRIED or any(path.is_relative_to(model) for model in models):
            continue
        if path.is_symlink():
            raise InputError(
                f"{path}: this is a link, and a bundle cannot contain links.", "Replace the link with the file itself."
            )
        if path.is_file():
            yield Content(f"configuration/{relative.as_posix()}", path, "of this institution")


def base_models(settings: Settings, progress: Progress) -> Iterator[Content]:
    """Yield the files of every base model that has a card. Raises IntegrityError if a file differs from the card's
    digest."""
    for name in _cards(settings):
        card = load_card(settings, name)
        verify_base_model(settings, card, progress)
        directory, at = model_directory(settings, card), f"models/{name}"
        if card.source.directory is not None and not card.source.directory.is_absolute():
            at = f"configuration/{card.source.directory.as_posix()}"
        for file in sorted(card.files):
            yield Content(f"{at}/{file}", directory / file, f"pinned by the card of {name}")


def suites(settings: Settings, progress: Progress) -> Iterator[Content]:
    """Yield the files of every suite that has a card and is in the mirror."""
    for name in suite_names(settings):
        card = load_suite_card(settings, name)
        try:
            files = suite_files(settings, card)
        except SourceError:
            progress(f"suite {name} is not in the mirror, so it is not packed")
            continue
        suite_digest(settings, card)
        origin = f"pinned by the card of {name}" if card.sha256 else f"not pinned: the card of {name} has no digest"
        for file, path in files.items():
            yield Content(f"suites/{suite_folder(settings, card).name}/{file}", path, origin)


def release(project: Path) -> Content:
    """Return the committed source of this release as a tar file. Raises InputError if `project` is not a git checkout,
    or if a tracked file has uncommitted changes."""
    if not (project / ".git").exists():
        raise InputError(f"{project}: this is not a git checkout.", "Pack in a checkout of the release.")
    if _git(project, "status", "--porcelain", "--untracked-files=no"):
        raise InputError(
            f"{project}: there are uncommitted changes.",
            "Commit them, so that the bundle names the commit that it packs.",
        )
    commit = _git(project, "rev-parse", "HEAD").decode().strip()
    return Content("release/source.tar", _git(project, "archive", "--format=tar", "HEAD"), f"commit {commit}")


def _cards(settings: Settings) -> list[str]:
    return sorted(path.stem for path in (settings.data / "models").glob("*.yaml"))


def _git(project: Path, *arguments: str) -> bytes:
    done = subprocess.run(("git", "-C", str(project), *arguments), capture_output=True, check=False)
    if done.returncode != 0:
        raise InputError(f"{project}: git {arguments[0]} failed (status {done.returncode}).", "Pack in a git checkout.")
    return done.stdout


BUILD = "build.txt"
PIN = re.compile(r"--hash=sha256:([0-9a-f]{64})")
PUBLISHED = "pinned by requirements/"
"""Origin of a wheel that was downloaded as its publisher built it."""
QUIET = ("--quiet", "--disable-pip-version-check", "--no-input")


def wheels(requirements: Path, names: Sequence[str], into: Path, progress: Progress) -> list[Content]:
    """Download the packages that the lock files `names` and `build.txt` pin. Build wheels from the source archives.

    Args:
        requirements: the folder of the lock files.
        names: names of lock files in `requirements`, such as `runtime.txt`.
        into: an empty folder on the bundle's disk.

    Raises NotFoundError if pip cannot download or build a package, and IntegrityError if none of these lock files pins
    a downloaded file.
    """
    published, built = into / "published", into / "built"
    for folder in (published, built):
        folder.mkdir(parents=True)
    pins = {pin for name in (BUILD, *names) for pin in PIN.findall((requirements / name).read_text(encoding="utf-8"))}
    for name in (BUILD, *names):
        progress(f"downloading the packages that {name} pins")
        lock = ("--require-hashes", "--no-deps", "--no-build-isolation", "-r", str(requirements / name))
        _pip("download", "--dest", str(published), *lock)
    for archive in sorted(published.iterdir()):
        if file_sha256(archive) not in pins:
            raise IntegrityError(
                f"{archive.name}: no lock file pins its SHA-256.", "Find out from where pip downloaded this file."
            )
        if archive.suffix != ".whl":
            progress(f"building a wheel of {archive.name}")
            alone = ("--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(built))
            _pip("wheel", *alone, str(archive))
    return [*_contents(published, PUBLISHED), *_built(published, built)]


def _contents(folder: Path, origin: str) -> Iterator[Content]:
    for path in sorted(folder.glob("*.whl")):
        yield Content(f"wheels/{path.name}", path, origin)


def _built(published: Path, built: Path) -> list[Content]:
    archives = [path for path in published.iterdir() if path.suffix != ".whl"]
    found = list(_contents(built, "built when packed, from a source archive that requirements/ pins"))
    if len(found) != len(archives):
        raise NotFoundError(
            f"{len(archives)} source archives were built into {len(found)} wheels.", "See pip's output."
        )
    return found


def _pip(act: str, *options: str) -> None:
    """Run this environment's pip. `build.txt` pins pip and setuptools. Raises NotFoundError if pip fails."""
    command = (sys.executable, "-m", "pip", act, *QUIET, *options)
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "315532800"}  # makes the built wheels reproducible
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NotFoundError(
            f"pip {act} failed (status {done.returncode}): {' '.join(done.stderr.split())[-500:]}",
            "Check the package index that pip is configured with.",
        )
