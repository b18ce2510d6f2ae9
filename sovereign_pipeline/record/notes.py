"""Sign and parse notes and checkpoints in the C2SP formats signed-note, tlog-checkpoint and tlog-cosignature (Ed25519).

A checkpoint contains the size and root hash of a log, signed by the log. A witness verifies that the log only grew, and
adds a cosignature with the time.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from sovereign_pipeline.base.errors import InputError, IntegrityError
from sovereign_pipeline.record.merkle import HASH_BYTES

SIGNS, COSIGNS = 0x01, 0x04
"""C2SP signature types of keys: a log signs, a witness cosigns."""
KEY_BYTES, ID_BYTES, TIME_BYTES = 32, 4, 8
PRIVATE = "PRIVATE+KEY+"
LONGEST_NOTE = 100_000
"""Maximum number of characters of a note, far above any real note. Limits the work that a malicious file can cause."""
SIGNATURE_LINE = re.compile(r"— ([^\s+]+) ([A-Za-z0-9+/]+=*)")


@dataclass(frozen=True)
class Verifier:
    """A named public key. Its text form is name+id+key."""

    name: str
    key: bytes
    kind: int

    @property
    def id(self) -> bytes:
        return hashlib.sha256(self.name.encode() + b"\n" + bytes([self.kind]) + self.key).digest()[:ID_BYTES]

    def __str__(self) -> str:
        return f"{self.name}+{self.id.hex()}+{encoded(bytes([self.kind]) + self.key)}"


@dataclass(frozen=True)
class Signer:
    """A named private key."""

    name: str
    kind: int
    _key: bytes = field(repr=False)

    @cached_property
    def _private(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self._key)

    @cached_property
    def verifier(self) -> Verifier:
        return Verifier(self.name, self._private.public_key().public_bytes_raw(), self.kind)

    def sign(self, content: bytes) -> bytes:
        return self._private.sign(content)

    def to_text(self) -> str:
        """Return the private key in the text form of Go's note package."""
        return f"{PRIVATE}{self.name}+{self.verifier.id.hex()}+{encoded(bytes([self.kind]) + self._key)}"


@dataclass(frozen=True)
class Signature:
    """An unverified signature line of a note."""

    name: str
    id: bytes
    content: bytes

    def __str__(self) -> str:
        return f"— {self.name} {encoded(self.id + self.content)}\n"


@dataclass(frozen=True)
class Note:
    """A text with its signatures."""

    text: str
    """The signed text, which ends with a line feed."""
    signatures: tuple[Signature, ...]

    def __str__(self) -> str:
        return self.text + "\n" + "".join(map(str, self.signatures))

    def also(self, signatures: Iterable[Signature]) -> "Note":
        """Return the note with further signatures. A newer signature by the same key replaces the earlier one."""
        by_key = {(each.name, each.id): each for each in (*self.signatures, *signatures)}
        return Note(self.text, tuple(by_key.values()))


@dataclass(frozen=True)
class TreeHead:
    origin: str
    """Name of the log."""
    size: int
    root: bytes

    def to_text(self) -> str:
        return f"{self.origin}\n{self.size}\n{encoded(self.root)}\n"


def new_signer(name: str, kind: int) -> Signer:
    return Signer(_name(name), kind, Ed25519PrivateKey.generate().private_bytes_raw())


@lru_cache(maxsize=4)
def parse_signer(text: str) -> Signer:
    """Parse a private key in the form of `Signer.to_text`. Raises InputError for malformed text."""
    parts = _key_parts(text.strip().removeprefix(PRIVATE)) if text.startswith(PRIVATE) else None
    if parts is not None:
        name, id, kind, content = parts
        signer = Signer(name, kind, content)
        if signer.verifier.id.hex() == id:
            return signer
    raise InputError(
        "This is not the private key of a log or of a witness.", "Use the file that the key was written to."
    )


def parse_verifier(text: str) -> Verifier:
    """Parse the Ed25519 public key of a log or witness (`name+id+key`). Raises InputError for malformed text."""
    if (parts := _key_parts(text.strip())) is not None:
        name, id, kind, content = parts
        verifier = Verifier(name, content, kind)
        if verifier.id.hex() == id:
            return verifier
    raise InputError("This is not a public key of the form name+id+key.", "Copy the complete published line.")


def _key_parts(text: str) -> tuple[str, str, int, bytes] | None:
    """Split a key of the form name+id+key into name, id, signature type and bytes. Returns None for malformed text."""
    name, _, rest = text.partition("+")
    id, _, encoded_key = rest.partition("+")
    content = _decoded(encoded_key)
    if content is None or len(content) != 1 + KEY_BYTES or content[0] not in (SIGNS, COSIGNS):
        return None
    return _name(name), id, content[0], content[1:]


def signed(text: str, signer: Signer) -> Signature:
    return Signature(signer.name, signer.verifier.id, signer.sign(text.encode()))


def cosigned(text: str, signer: Signer, at: int) -> Signature:
    """Return a witness's cosignature. It covers the text and the time (seconds since 1970)."""
    return Signature(
        signer.name, signer.verifier.id, at.to_bytes(TIME_BYTES, "big") + signer.sign(_with_time(text, at))
    )


def parse_note(text: str) -> Note:
    """Parse a signed note without verifying it. Raises InputError for malformed text."""
    body, separator, lines = text.rpartition("\n\n")
    if len(text) > LONGEST_NOTE or not separator or not lines.endswith("\n") or _has_control(text):
        raise _no_note()
    return Note(body + "\n", tuple(parse_signatures(lines)))


def parse_signatures(lines: str) -> list[Signature]:
    """Parse the signature lines after a note's text. Raises InputError for malformed text."""
    found = []
    for line in lines.removesuffix("\n").split("\n"):
        match = SIGNATURE_LINE.fullmatch(line)
        content = _decoded(match[2]) if match is not None else None
        if match is None or content is None or len(content) <= ID_BYTES:
            raise _no_note()
        found.append(Signature(match[1], content[:ID_BYTES], content[ID_BYTES:]))
    return found


def parse_tree_head(text: str) -> TreeHead:
    """Parse the text of a checkpoint. Raises InputError for malformed text."""
    lines = text.split("\n")
    if len(lines) >= 4 and lines[-1] == "" and all(lines[:-1]):
        origin, size, root = lines[:3]
        found = _decoded(root)
        if re.fullmatch(r"0|[1-9][0-9]{0,18}", size) and found is not None and len(found) == HASH_BYTES:
            return TreeHead(origin, int(size), found)
    raise InputError("This is not the checkpoint of a log.", "Use a file that this program wrote as a checkpoint.")


def is_signed(note: Note, verifier: Verifier) -> bool:
    """Return True if the key signed the note. Raises IntegrityError for an invalid signature with the key's name and
    id."""
    mine = [each for each in note.signatures if (each.name, each.id) == (verifier.name, verifier.id)]
    for each in mine:
        if not _holds(note.text, each, verifier):
            raise IntegrityError(
                f"The signature by {verifier.name} does not match this text.",
                "Get the signed text again from its source.",
            )
    return bool(mine)


def cosigned_at(note: Note, verifier: Verifier) -> int | None:
    """Return the latest time (seconds since 1970) at which a witness cosigned a note, or None without a cosignature.
    Raises the errors of `is_signed`."""
    if not is_signed(note, verifier):
        return None
    mine = [each for each in note.signatures if (each.name, each.id) == (verifier.name, verifier.id)]
    return max(int.from_bytes(each.content[:TIME_BYTES], "big") for each in mine)


def encoded(content: bytes) -> str:
    return base64.b64encode(content).decode()


def decoded(text: str) -> bytes:
    content = _decoded(text)
    if content is None:
        raise InputError("A line of the file is not base64.", "Use the unchanged file.")
    return content


def decoded_hashes(lines: Sequence[str]) -> list[bytes]:
    """Decode base64 hashes, one per line. Raises InputError if a line is not a hash."""
    found = [each for each in map(_decoded, lines) if each is not None and len(each) == HASH_BYTES]
    if len(found) != len(lines):
        raise InputError("A line of the proof is not a hash.", "Use the unchanged file.")
    return found


def _holds(text: str, signature: Signature, verifier: Verifier) -> bool:
    content, message = signature.content, text.encode()
    if verifier.kind == COSIGNS:
        message = _with_time(text, int.from_bytes(content[:TIME_BYTES], "big"))
        content = content[TIME_BYTES:]
    try:
        Ed25519PublicKey.from_public_bytes(verifier.key).verify(content, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _with_time(text: str, at: int) -> bytes:
    return f"cosignature/v1\ntime {at}\n{text}".encode()


def _name(name: str) -> str:
    if not re.fullmatch(r"[^\s+]+", name) or _has_control(name):
        raise InputError(
            "The name of a key is empty, or contains a space or a plus sign.",
            "Write a name such as ministry.example/w1.",
        )
    return name


def _has_control(text: str) -> bool:
    return any(character < " " and character != "\n" for character in text)


def _decoded(text: str) -> bytes | None:
    """Return decoded base64, or None if the encoding is not canonical, for example in its unused bits."""
    try:
        content = base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return None
    return content if encoded(content) == text else None


def _no_note() -> InputError:
    return InputError("This is not a signed note.", "Use the unchanged file: a text, an empty line, and signatures.")
