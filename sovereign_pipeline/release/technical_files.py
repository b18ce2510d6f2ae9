"""The technical file of an adapter, completed by persons, and signed by those who are responsible.

A signature is an officer's statement about the file's bytes, and an entry of the ledger. File and statements lie in the
home: `technical-files/ADAPTER/SHA256.md`, and `SHA256.sigstore.json` beside it for each signature. Several persons sign
the same bytes; a file that was changed is another file, with signatures of its own.

What belongs here: in which capacities persons sign, signing, and reading signatures back. What does not: writing the
draft (`audit/documents/technical_file.py`). What persons wrote is theirs: nobody compares it with the record.
"""

import datetime
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from sovereign_pipeline.bounded_files import read_bounded
from sovereign_pipeline.errors import ConflictError, InputError, IntegrityError
from sovereign_pipeline.ledger.audit_log import append
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.ledger.in_force import TRUST_NAMES, trust_named
from sovereign_pipeline.ledger.log.checkpoints import write_atomically
from sovereign_pipeline.ledger.tables import Adapter, AuditEntry
from sovereign_pipeline.ledger.trust_on_record import assert_in_force
from sovereign_pipeline.ledger.verifying import verify_registry
from sovereign_pipeline.settings import Settings
from sovereign_pipeline.signing.bundles import LARGEST_BUNDLE, SUFFIX
from sovereign_pipeline.signing.keys import Signer
from sovereign_pipeline.signing.officers import actor_of, assert_may, officer_of, trust_root, verify_act
from sovereign_pipeline.signing.predicates import TECHNICAL_FILE
from sovereign_pipeline.signing.statements import Statement, Subject, sign_statement
from sovereign_pipeline.signing.trusted import Trust
from sovereign_pipeline.wording import counted

SIGNED = "technical file signed"
CAPACITIES: Mapping[str, str] = {
    "legal": "the provider's legal office",
    "owner": "the line's owner",
    "operations": "whoever runs the installation",
    "security": "the institution's security office",
}
"""What a person signs as -> who that is. The trust root gives the right, such as `sign_as_legal`."""
UNWRITTEN = "Not known to this system"
"""Begins each place of the draft that persons are to write."""
PLACE = re.compile(UNWRITTEN.replace(" ", r"[\s>*_|\u00ad\u200b-\u200f\u2060\ufeff]+"), re.IGNORECASE)
"""The same where an editor wrapped or emphasised it, or put what nobody sees between its words."""
DECEIVING = re.compile(r"\r(?!\n)|[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202d\u202e]")
"""What makes a terminal or an editor show another text than the one that is signed."""
LARGEST = 4 << 20
"""Bytes of a file of text."""
RESTORE = "Put it back from a backup of the home."


def title_of(adapter_id: str) -> str:
    """The first line of an adapter's technical file: by it a file of another adapter is told apart."""
    return f"# Technical file of {adapter_id} · الملف الفني"


@dataclass(frozen=True)
class CompletedFile:
    """A technical file as persons hand it in."""

    adapter_id: str
    content: bytes
    unwritten: int
    """Places that nobody has written."""

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class FileSignature:
    """That an officer signed a technical file, verified."""

    capacity: str
    person: str
    at: str
    statement: bytes
    sequence: int
    """Of its entry in the ledger."""


@dataclass(frozen=True)
class SignedFile:
    """A technical file that somebody signed."""

    sha256: str
    content: bytes
    unwritten: int
    signatures: tuple[FileSignature, ...]

    @property
    def missing(self) -> list[str]:
        """The capacities in which nobody signed it."""
        return [each for each in CAPACITIES if each not in {signature.capacity for signature in self.signatures}]


def read_completed(path: Path, adapter: Adapter, *, incomplete: bool) -> CompletedFile:
    """A completed technical file. incomplete: it may have places that nobody has written.

    Raises InputError where it is no text, or none that is shown as it is; where it is of another adapter or of another
    record of it; and where it has such places.
    """
    content = read_bounded(path, LARGEST, "Name the completed file.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{path}: this is no text in UTF-8.", "Save it as UTF-8.") from None
    if (deceiving := DECEIVING.search(text)) is not None:
        raise InputError(
            f"{path}: line {_line(text, deceiving)} holds the character U+{ord(deceiving[0]):04X}, by which another "
            "text can be shown than the one that is signed.",
            "Take it out.",
        )
    if text.split("\n", 1)[0].strip() != title_of(adapter.id) or adapter.record_digest not in text:
        raise InputError(
            f"{path}: this is no technical file of {adapter.id}: its first line, or the digest of the record, is of "
            "another one.",
            f"The first line is '{title_of(adapter.id)}', and the record is {adapter.record_digest}.",
        )
    places = list(PLACE.finditer(text))
    if places and not incomplete:
        raise InputError(
            f"{path}: {counted(len(places), 'place')} where something is not known to this system, the first in line "
            f"{_line(text, places[0])}, and nobody has written it.",
            "Whoever is named there writes it, or you sign the file as incomplete; the signature says so.",
        )
    return CompletedFile(adapter.id, content, len(places))


def _line(text: str, found: re.Match[str]) -> int:
    return text.count("\n", 0, found.start()) + 1


def sign_technical_file(
    registry: Registry, adapter: Adapter, file: CompletedFile, capacity: str, signer: Signer
) -> SignedFile:
    """Sign a technical file in a capacity, with an entry of the ledger. Returns it with every signature that it has.

    Raises SignInError where the trust root does not let the officer sign so at the adapter's level, and ConflictError
    where they did so already.
    """
    settings, right = registry.settings, right_of(capacity)
    trust = trust_root(settings)
    officer = officer_of(trust, signer.keyid)
    assert_may(officer, right, [adapter.classification])
    verify_registry(registry)
    with registry.writing() as session:
        assert_in_force(session, settings, trust)
        known = next(
            (each for each in signed_files(session, settings, adapter, trust) if each.sha256 == file.sha256), None
        )
        by_now = known.signatures if known is not None else ()
        if any((each.person, each.capacity) == (officer.person, capacity) for each in by_now):
            raise ConflictError(f"{officer.person} signed this file as {CAPACITIES[capacity]} already.")
        at = datetime.datetime.now(datetime.UTC).replace(microsecond=0).isoformat()
        said = _said(adapter, file, capacity, at)
        bundle = sign_statement(signer, Statement((Subject("technical-file.md", file.sha256),), TECHNICAL_FILE, said))
        statement = hashlib.sha256(bundle).hexdigest()
        _keep(_path(settings, adapter.id, file.sha256, ".md"), file.content)
        _keep(_path(settings, adapter.id, statement, SUFFIX), bundle)  # one of a transaction that failed is nobody's
        entered = {**said, "statement": statement, **trust_named(trust)}
        append(session, actor_of(signer.keyid), SIGNED, entered)
    with registry.reading() as session:
        return next(each for each in signed_files(session, settings, adapter, trust) if each.sha256 == file.sha256)


def right_of(capacity: str) -> str:
    """What the trust root must let an officer do. Raises InputError for a capacity that there is not."""
    if capacity not in CAPACITIES:
        raise InputError(f"Nobody signs a technical file as '{capacity}'.", f"Sign as {', '.join(CAPACITIES)}.")
    return f"sign_as_{capacity}"


def signed_files(
    session: Session, settings: Settings, adapter: Adapter, trust: Trust | None = None
) -> list[SignedFile]:
    """Every technical file of an adapter that somebody signed, in the order of their first signatures.

    Args:
        trust: by which signatures count; None is the one on this machine, read where there is a signature.

    Raises IntegrityError naming a file or a signature that is missing, was changed, or does not count.
    """
    query = select(AuditEntry).where(
        AuditEntry.action == SIGNED, AuditEntry.subjects["adapter"].as_string() == adapter.id
    )
    found: dict[str, SignedFile] = {}
    for entry in session.scalars(query.order_by(AuditEntry.sequence)):
        file, signature = _verified(settings, adapter, trust if trust is not None else trust_root(settings), entry)
        before = found[file.sha256].signatures if file.sha256 in found else ()
        found[file.sha256] = SignedFile(file.sha256, file.content, file.unwritten, (*before, signature))
    return list(found.values())


def _verified(
    settings: Settings, adapter: Adapter, trust: Trust, entry: AuditEntry
) -> tuple[CompletedFile, FileSignature]:
    """The file and the statement that an entry names."""
    entered = {name: value for name, value in entry.subjects.items() if name not in {"statement", *TRUST_NAMES}}
    capacity, at = str(entered.get("capacity")), str(entered.get("at"))
    path = _path(settings, adapter.id, str(entered.get("file")), ".md")
    content = read_bounded(path, LARGEST, RESTORE)
    bundle = read_bounded(
        _path(settings, adapter.id, str(entry.subjects.get("statement")), SUFFIX), LARGEST_BUNDLE, RESTORE
    )
    file = CompletedFile(adapter.id, content, len(PLACE.findall(content.decode("utf-8", "replace"))))
    try:
        verified = verify_act(
            bundle,
            trust,
            f"sign_as_{capacity}",
            [adapter.classification],
            predicate_type=TECHNICAL_FILE,
            sha256=file.sha256,
            at_index=entry.sequence - 1,
        )
    except IntegrityError as error:
        raise IntegrityError(f"{path}: {error.message}", error.hint) from None
    signed = (dict(verified.statement.predicate), hashlib.sha256(bundle).hexdigest(), actor_of(verified.key.keyid))
    same = signed == (entered, entry.subjects.get("statement"), entry.actor)
    if not same or entered != _said(adapter, file, capacity, at) or capacity not in CAPACITIES:
        raise IntegrityError(
            f"{path}: entry {entry.sequence} of the audit log names another signature than the one that is there.",
            RESTORE,
        )
    assert verified.key.person is not None  # of every officer's key, as reading the trust root asserts
    return file, FileSignature(capacity, verified.key.person, at, bundle, entry.sequence)


def _said(adapter: Adapter, file: CompletedFile, capacity: str, at: str) -> dict[str, Any]:
    return {
        "adapter": adapter.id,
        "record": adapter.record_digest,
        "file": file.sha256,
        "capacity": capacity,
        "unwritten": file.unwritten,
        "at": at,
    }


def _path(settings: Settings, adapter_id: str, sha256: str, suffix: str) -> Path:
    return settings.home / "technical-files" / adapter_id / f"{sha256}{suffix}"


def _keep(path: Path, content: bytes) -> None:
    write_atomically(path, content)
    path.chmod(0o644)  # officers read it, under accounts of their own
