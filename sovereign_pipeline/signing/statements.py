"""Signed statements: an in-toto Statement v1 in a DSSE envelope, as a sigstore bundle v0.3 with one signature.

A statement says something (its predicate) about files (its subjects, by SHA-256). Where several people must agree,
each signs a bundle of their own. What belongs here: the form, and whether a signature counts. What does not: what the
fields of a predicate mean (`predicates.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.signing.bundles import (
    AGAIN,
    SHA256,
    bundle_bytes,
    bundle_parts,
    canonical,
    is_canonical,
    json_object,
    pre_authentication_encoding,
)
from sovereign_pipeline.signing.keys import Signer, algorithm_of, is_signed
from sovereign_pipeline.signing.predicates import FIELDS
from sovereign_pipeline.signing.trusted import Trust, TrustedKey

STATEMENT = "https://in-toto.io/Statement/v1"


@dataclass(frozen=True)
class Subject:
    """A file that a statement is about."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Statement:
    """What is said about which files."""

    subjects: tuple[Subject, ...]
    predicate_type: str
    predicate: Mapping[str, Any]


@dataclass(frozen=True)
class Verified:
    """A statement whose signature counts, and whose it is."""

    statement: Statement
    key: TrustedKey


def sign_statement(signer: Signer, statement: Statement) -> bytes:
    """The bundle's bytes: canonical JSON with a line break at its end. Raises ValueError for a malformed statement."""
    if fault := _fault(statement):
        raise ValueError(f"this statement cannot be signed: {fault}")
    if algorithm_of(signer.public_pem) != "p256":
        raise ValueError("statements are signed with P-256")
    payload = canonical(_as_dict(statement))
    _statement_in(payload)
    return bundle_bytes(signer.keyid, payload, signer.sign(pre_authentication_encoding(payload)))


def verify_statement(
    bundle: bytes, trust: Trust, role: str, *, predicate_type: str, sha256: str, at_index: int | None = None
) -> Verified:
    """The statement in a bundle, if a key of this role signed it, about this file, of this kind.

    Args:
        sha256: of the file; it must be a subject of the statement.
        at_index: where the statement stands in the log; None for one that is yet to be entered.

    Raises IntegrityError that says what is not so.
    """
    keyid, payload, signature = bundle_parts(bundle)
    key = trust.key(role, keyid)
    if not is_signed(key.public_pem, signature, pre_authentication_encoding(payload)):
        raise IntegrityError(f"The signature by {keyid} is not over this statement.", AGAIN)
    if not trust.counts(role, keyid, at_index):
        at = "what is signed now" if at_index is None else f"entry {at_index} of the log"
        raise IntegrityError(
            f"The key {keyid} of the role {role} is revoked from entry {key.revoked_from} of the log on, and does not "
            f"count for {at}.",
            "Somebody else of this role signs it anew.",
        )
    statement = _statement_in(payload)
    if statement.predicate_type != predicate_type:
        raise IntegrityError(
            f"The statement is of the kind {statement.predicate_type}, and {predicate_type} is needed.", AGAIN
        )
    if sha256 not in {subject.sha256 for subject in statement.subjects}:
        raise IntegrityError(
            f"The statement is about {', '.join(subject.sha256 for subject in statement.subjects[:3])}, not about "
            f"{sha256}.",
            AGAIN,
        )
    return Verified(statement, key)


def read_statement(bundle: bytes) -> Statement:
    """The statement in a bundle, **unverified**: for display alone. Raises IntegrityError for what is no bundle."""
    return _statement_in(bundle_parts(bundle)[1])


def signed_by(bundle: bytes) -> str:
    """The id of the key that a bundle names, **unverified**: for display, and to look for the key."""
    return bundle_parts(bundle)[0]


def _as_dict(statement: Statement) -> dict[str, Any]:
    return {
        "_type": STATEMENT,
        "subject": [{"name": each.name, "digest": {"sha256": each.sha256}} for each in statement.subjects],
        "predicateType": statement.predicate_type,
        "predicate": statement.predicate,
    }


def _statement_in(payload: bytes) -> Statement:
    content = json_object(payload, "The envelope's payload is no statement")
    if content.get("_type") != STATEMENT:
        raise IntegrityError(f"The payload is not of the type {STATEMENT}.", AGAIN)
    try:
        subjects = tuple(Subject(each["name"], each["digest"]["sha256"]) for each in content["subject"])
        statement = Statement(subjects, content["predicateType"], content["predicate"])
    except (KeyError, TypeError):
        raise IntegrityError("The statement has no subject, predicateType or predicate.", AGAIN) from None
    if fault := _fault(statement):
        raise IntegrityError(f"The statement is malformed: {fault}.", AGAIN)
    if not is_canonical(_as_dict(statement), payload):
        raise IntegrityError("The statement's bytes are not as they were written.", AGAIN)
    return statement


def _fault(statement: Statement) -> str | None:
    """What a statement lacks, or None."""
    names = [subject.name for subject in statement.subjects]
    if not names or len(set(names)) != len(names) or not all(isinstance(name, str) and name for name in names):
        return "its subjects are not one or more files, each named once"
    if not all(isinstance(each.sha256, str) and SHA256.fullmatch(each.sha256) for each in statement.subjects):
        return "a subject's digest is not a SHA-256 in lower case"
    if not isinstance(statement.predicate_type, str) or statement.predicate_type not in FIELDS:
        return f"its kind {statement.predicate_type} is unknown"
    if not isinstance(statement.predicate, Mapping):
        return "its predicate is not an object"
    if missing := FIELDS[statement.predicate_type] - {*statement.predicate}:
        return f"its predicate lacks {', '.join(sorted(missing))}"
    return None
