"""The OpenSSF's signature of a model's directory (OMS v1.0), for whoever gets an adapter and has model-signing alone.

The statement lists every file of the directory with its SHA-256. It is written and read here, since model-signing would
bring a client of the public sigstore service into every installation; its own command line verifies what is written.
What that one passes over is refused here: files of git, empty directories, links, a bundle that names no key or has two
signatures. What belongs here: that form. What does not: which adapter it is in whose life (`statements.py`).
"""

import hashlib
import os
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.signing.bundles import (
    AGAIN,
    bundle_bytes,
    bundle_parts,
    canonical,
    json_object,
    pre_authentication_encoding,
)
from sovereign_pipeline.signing.keys import Signer, algorithm_of, is_signed
from sovereign_pipeline.signing.trusted import Trust, TrustedKey

STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://model_signing/signature/v1.0"
BLOCK = 1 << 20


def sign_directory(signer: Signer, directory: Path, name: str) -> bytes:
    """The bundle's bytes. They belong beside the directory, not into it.

    Args:
        name: which model it is, such as an adapter's id.

    Raises IntegrityError for a directory that holds a link, an empty directory, or no file.
    """
    return sign_listed(signer, _digests(directory), name)


def sign_listed(signer: Signer, files: Mapping[str, str], name: str) -> bytes:
    """As `sign_directory`, where the files (path below the directory -> SHA-256) were read already."""
    if algorithm_of(signer.public_pem) != "p256":
        raise ValueError("a model's directory is signed with P-256")
    payload = canonical(_statement(files, name))
    return bundle_bytes(_hint(signer.public_pem), payload, signer.sign(pre_authentication_encoding(payload)))


def verify_directory(
    bundle: bytes, directory: Path, name: str, trust: Trust, role: str, *, at_index: int | None = None
) -> TrustedKey:
    """Whose signature it is, if it counts and is over exactly this directory under this name.

    Raises IntegrityError that names the file which differs.
    """
    key, payload = _signed_by(bundle, trust, role, at_index)
    _assert_same(payload, _digests(directory), name, str(directory))
    return key


def verify_listed(
    bundle: bytes, files: Mapping[str, str], name: str, trust: Trust, role: str, *, at_index: int | None = None
) -> TrustedKey:
    """As `verify_directory`, where the files were read already."""
    key, payload = _signed_by(bundle, trust, role, at_index)
    _assert_same(payload, files, name, name)
    return key


def _signed_by(bundle: bytes, trust: Trust, role: str, at_index: int | None) -> tuple[TrustedKey, bytes]:
    """Whose signature it is, if it counts, and what is signed."""
    hint, payload, signature = bundle_parts(bundle)
    key = next((each for each in trust.keys(role) if _hint(each.public_pem) == hint), None)
    if key is None:
        raise IntegrityError(f"No key of the role {role} has the digest {hint} that the bundle names.", AGAIN)
    if not is_signed(key.public_pem, signature, pre_authentication_encoding(payload)):
        raise IntegrityError(f"The signature by {key.keyid} is not over this list of files.", AGAIN)
    if not trust.counts(role, key.keyid, at_index):
        raise IntegrityError(f"The key {key.keyid} is revoked from entry {key.revoked_from} of the log on.", AGAIN)
    return key, payload


def _assert_same(payload: bytes, files: Mapping[str, str], name: str, where: str) -> None:
    there = _statement(files, name)
    if canonical(there) != payload:
        raise IntegrityError(f"{where}: {_difference(json_object(payload, 'This is no list'), there)}", AGAIN)


def _statement(files: Mapping[str, str], name: str) -> dict[str, Any]:
    """What is signed: the digests of the files in the order of their paths, and one digest over these."""
    whole = hashlib.sha256()
    resources = []
    for relative in sorted(files, key=PurePosixPath):
        whole.update(bytes.fromhex(files[relative]))
        resources.append({"name": relative, "algorithm": "sha256", "digest": files[relative]})
    serialization = {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": []}
    return {
        "_type": STATEMENT,
        "subject": [{"name": name, "digest": {"sha256": whole.hexdigest()}}],
        "predicateType": PREDICATE,
        "predicate": {"serialization": serialization, "resources": resources},
    }


def _digests(directory: Path) -> dict[str, str]:
    """Path below the directory -> SHA-256 of every file."""
    files = {path.relative_to(directory).as_posix(): _digest(path).hex() for path in _files(directory)}
    if not files:
        raise IntegrityError(f"{directory}: there is no file in it.", "Name a model's directory.")
    return files


def _files(directory: Path) -> Iterator[Path]:
    """Every file below a directory. Raises IntegrityError for what a signature over files would not cover."""
    if directory.is_symlink() or not directory.is_dir():
        raise IntegrityError(f"{directory}: it is a link, or no directory.", "Name the directory itself.")
    entries = sorted(directory.iterdir())
    if not entries:
        raise IntegrityError(f"{directory}: the directory is empty, and no signature covers it.", "Remove it.")
    for path in entries:
        if not _is_text(path.name):
            raise IntegrityError(f"{str(path)!a}: its name is not UTF-8.", "Rename it.")
        mode = path.lstat().st_mode
        if stat.S_ISDIR(mode):
            yield from _files(path)
        elif stat.S_ISREG(mode):
            yield path
        else:
            raise IntegrityError(f"{path}: it is a link, or no file.", "Remove it, or put the file itself there.")


def _is_text(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _digest(path: Path) -> bytes:
    hasher = hashlib.sha256()
    with os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as stream:
        while block := stream.read(BLOCK):
            hasher.update(block)
    return hasher.digest()


def _hint(pem: str) -> str:
    """How an OMS bundle names a key: the SHA-256 of its PEM."""
    return hashlib.sha256(pem.encode()).hexdigest()


def _difference(signed: dict[str, Any], there: dict[str, Any]) -> str:
    """The first thing in which a directory is not what was signed, in a sentence."""
    if signed.get("predicateType") != PREDICATE:
        return f"the statement is of the kind {signed.get('predicateType')}, not {PREDICATE}."
    try:
        before = {str(each["name"]): each["digest"] for each in signed["predicate"]["resources"]}
        name = signed["subject"][0]["name"]
    except (KeyError, IndexError, TypeError):
        return "the statement lists no files."
    now = {each["name"]: each["digest"] for each in there["predicate"]["resources"]}
    for what, names in (
        ("was not signed", now.keys() - before.keys()),
        ("is missing", before.keys() - now.keys()),
        ("was changed", {each for each in now.keys() & before.keys() if now[each] != before[each]}),
    ):
        if names:
            return f"{min(names)} {what}."
    if name != (asked := there["subject"][0]["name"]):
        return f"it was signed as {name}, not as {asked}."
    return "the list of files is written in another form."
