"""One answer, or what was said of one, as a record that is sealed to a public key (age): a line of a file.

The gateway holds the public key only: it can add and never read. A file holds one record a line, in base64, each sealed
by itself, so that a line which was cut short spoils itself alone. What belongs here: their form, sealing, opening. What
does not: which file (`keeping.py`, `reading.py`).
"""

import base64
import binascii
import datetime
import hashlib
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, ValidationError

from sovereign_pipeline.base.frozen import Frozen
from sovereign_pipeline.serving.rollout.feedback import Feedback

Hex = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


class Turn(Frozen):
    role: Literal["system", "user", "assistant"]
    content: str


class Transcript(Frozen):
    """What was asked, and what was answered."""

    kind: Literal["transcript"] = "transcript"
    given: Hex
    """Tells answers apart, and ties what is said of one to it: a digest over its id and its caller."""
    line: str
    adapter: str
    classification: str
    """The adapter's level."""
    at: datetime.datetime
    messages: tuple[Turn, ...]
    """As the caller sent them, without the line's instruction; where its requests are replaced, with placeholders."""
    answer: str
    """With the same placeholders."""
    originals: dict[str, str]
    """Placeholder of the request -> what the caller wrote there."""


class Rating(Frozen):
    """What its caller said of an answer; the last one counts."""

    kind: Literal["rating"] = "rating"
    given: Hex
    at: datetime.datetime
    feedback: Feedback


Record = Annotated[Transcript | Rating, Field(discriminator="kind")]
_RECORDS: TypeAdapter[Transcript | Rating] = TypeAdapter(Record)


class Sealed(Frozen):
    """A record that only the private key opens."""

    content: bytes

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()

    @property
    def line(self) -> bytes:
        """As it stands in a file: it begins anew."""
        return b"\n" + base64.b64encode(self.content) + b"\n"


def seal(record: Transcript | Rating, recipient: str) -> Sealed:
    """recipient: the public key, `age1…`."""
    import pyrage

    plain = record.model_dump_json().encode()
    return Sealed(content=pyrage.encrypt(plain, [pyrage.x25519.Recipient.from_str(recipient)]))


def sealed_in(content: bytes) -> tuple[list[Sealed], int]:
    """The records of a file, in their order, and how many of its lines are none."""
    found, spoilt = [], 0
    for line in content.split(b"\n"):
        if not line:
            continue
        try:
            found.append(Sealed(content=base64.b64decode(line, validate=True)))
        except binascii.Error:
            spoilt += 1
    return found, spoilt


def unseal(sealed: Sealed, identity: Any) -> Transcript | Rating | None:
    """The record; None for one that this key does not open, or that is none. identity: pyrage's private key."""
    import pyrage

    try:
        return _RECORDS.validate_json(pyrage.decrypt(sealed.content, [identity]))
    except (pyrage.DecryptError, ValidationError):
        return None
