"""The files of a trust root as bytes, and TUF's objects made of them.

Each file has one spelling: what python-tuf writes for what it read. A byte that a reader would pass over is refused
like any other. What belongs here: that, and how a key and a signer look to python-tuf. What does not: what the files
say.
"""

import os
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, cast

from cryptography.hazmat.primitives.asymmetric import ed25519
from securesystemslib.signer import Key, SSlibKey
from securesystemslib.signer import Signature as TufSignature
from securesystemslib.signer import Signer as TufSigner
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Targets
from tuf.api.serialization.json import JSONSerializer

from sovereign_pipeline.base.errors import InputError, IntegrityError
from sovereign_pipeline.signing.keys import Algorithm, Signer, keyid_of, public_pem_of, read_public_key

Files = Mapping[str, bytes]
"""Name -> content."""
T = TypeVar("T", Root, Targets)

ROOT, TARGETS = "root.json", "targets.json"
ROOTS = re.compile(r"([1-9][0-9]{0,5})\.root\.json")
LARGEST_FILE = 4 << 20
SPELLING = re.compile(r"[0-9a-f]+")
TIME = "%Y-%m-%dT%H:%M:%SZ"


def root_name(version: int) -> str:
    return f"{version}.{ROOT}"


def read_files(directory: Path) -> dict[str, bytes]:
    """The trust root's files in a directory. Others are none of its own."""
    found: dict[str, bytes] = {}
    for path in sorted(directory.iterdir()):
        if path.name in (ROOT, TARGETS) or ROOTS.fullmatch(path.name):
            if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST_FILE:
                raise IntegrityError(f"{path}: this is no file of a trust root.", "Take the trust root again.")
            found[path.name] = path.read_bytes()
    return found


def write_files(directory: Path, files: Files) -> None:
    """Write what is new or changed. Everything is on the disk before the first file takes its name."""
    directory.mkdir(parents=True, exist_ok=True)
    changed = [
        name
        for name in sorted(files, key=lambda name: (name == TARGETS, name == ROOT, name))
        if not (directory / name).exists() or (directory / name).read_bytes() != files[name]
    ]
    for name in changed:
        partial = directory / f".{name}.new"
        with partial.open("wb") as stream:
            stream.write(files[name])
            stream.flush()
            os.fsync(stream.fileno())
        partial.chmod(0o644)
    for name in changed:
        (directory / f".{name}.new").replace(directory / name)


def written(metadata: Metadata[Any]) -> bytes:
    """The one spelling of a file."""
    return JSONSerializer(compact=False).serialize(metadata) + b"\n"


def metadata_in(content: bytes, kind: type[T], name: str) -> Metadata[T]:
    """Raises IntegrityError for bytes that are not this kind's metadata in its one spelling."""
    try:
        metadata = cast(Metadata[T], Metadata.from_bytes(content))
        spelled = written(metadata)
    except (RepositoryError, ValueError, RecursionError):
        raise IntegrityError(f"{name}: this is no TUF metadata.", "Take the file again.") from None
    if not isinstance(metadata.signed, kind):
        raise IntegrityError(f"{name}: this is not TUF's {kind.type}.", "Take the file again.")
    lowercase = all(SPELLING.fullmatch(each.signature) for each in metadata.signatures.values())
    if spelled != content or not lowercase:
        raise IntegrityError(f"{name}: its bytes are not as they were written.", "Take the file again.")
    return metadata


def dated(text: object, name: str) -> datetime:
    try:
        return datetime.strptime(str(text), TIME).replace(tzinfo=UTC)
    except ValueError:
        raise IntegrityError(f"{name}: an expiry is no time.", "Take the file again.") from None


def tuf_key(pem: str, **fields: Any) -> Key:
    """A public key as TUF has it, under its one id."""
    key = SSlibKey.from_crypto(read_public_key(pem), keyid=keyid_of(pem))
    key.unrecognized_fields.update({name: value for name, value in fields.items() if value not in (None, [], ())})
    return key


def pem_of(keyid: str, key: Key, name: str) -> tuple[str, Algorithm]:
    """The key in PEM, and its kind. Raises IntegrityError where the id is not the key's own."""
    public = key.keyval.get("public")
    try:
        if (key.keytype, key.scheme) == ("ed25519", "ed25519"):
            pem, kind = public_pem_of(ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(str(public)))), "ed25519"
        elif (key.keytype, key.scheme) == ("ecdsa", "ecdsa-sha2-nistp256"):
            pem, kind = public_pem_of(read_public_key(str(public))), "p256"
        else:
            raise ValueError(key.scheme)
    except (ValueError, InputError):
        raise IntegrityError(f"{name}: the key {keyid} is neither P-256 nor Ed25519.", "Take the file again.") from None
    if keyid_of(pem) != keyid or {*key.keyval} != {"public"} or tuf_key(pem).keyval["public"] != public:
        raise IntegrityError(
            f"{name}: the key {keyid} stands under an id that is not its own.",
            "One key under two ids would be counted twice: take the file again.",
        )
    return pem, cast(Algorithm, kind)


class RootSigner(TufSigner):
    """One of our signers, as python-tuf wants it."""

    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    @property
    def public_key(self) -> Key:
        return tuf_key(self._signer.public_pem)

    @classmethod
    def from_priv_key_uri(cls, priv_key_uri: str, public_key: Key, secrets_handler: object = None) -> "RootSigner":
        raise NotImplementedError("a signer is opened by its source")

    def sign(self, payload: bytes) -> TufSignature:
        return TufSignature(self._signer.keyid, self._signer.sign(payload).hex())
