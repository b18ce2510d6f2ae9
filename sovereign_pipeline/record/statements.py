"""Sign and verify in-toto statements in sigstore bundles, about single files and about model directories."""

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.text import refuse_long_texts
from sovereign_pipeline.record.keys import Signer, algorithm_of, is_low_s, is_signed
from sovereign_pipeline.record.trust_root import Trust, TrustedKey

PAYLOAD = "application/vnd.in-toto+json"
BUNDLE_MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SUFFIX = ".sigstore.json"
"""Suffix of a bundle's file name, which begins with the name of the attested file."""
LARGEST_BUNDLE = 16 << 20
SHA256 = re.compile(r"[0-9a-f]{64}")


class InvalidStatement(IntegrityError):
    """Raised when a bundle is malformed, its signature is invalid, or its statement is not the required one."""

    usual_hint = "Copy the bundle again from its source, or have it signed again."


def pre_authentication_encoding(payload: bytes) -> bytes:
    """Return the bytes to sign (DSSE's PAE)."""
    return f"DSSEv1 {len(PAYLOAD)} {PAYLOAD} {len(payload)} ".encode() + payload


def bundle_bytes(keyid: str, payload: bytes, signature: bytes) -> bytes:
    envelope = {
        "payload": base64.b64encode(payload).decode(),
        "payloadType": PAYLOAD,
        "signatures": [{"sig": base64.b64encode(signature).decode()}],
    }
    content = {
        "mediaType": BUNDLE_MEDIA_TYPE,
        "verificationMaterial": {"publicKey": {"hint": keyid}},
        "dsseEnvelope": envelope,
    }
    return canonical(content) + b"\n"


def bundle_parts(bundle: bytes) -> tuple[str, bytes, bytes]:
    """Return the key id, the payload and the signature of a bundle. Raises IntegrityError unless the bytes are a
    sigstore bundle in canonical form with one signature."""
    content = json_object(bundle, "This is not a sigstore bundle")
    if content.get("mediaType") != BUNDLE_MEDIA_TYPE:
        raise InvalidStatement(f"The bundle's media type is not {BUNDLE_MEDIA_TYPE}.")
    hint = _at(content, "verificationMaterial", "publicKey", "hint")
    if not isinstance(hint, str) or not SHA256.fullmatch(hint):
        raise InvalidStatement("The bundle does not name the key that signed it (publicKey.hint).")
    if _at(content, "dsseEnvelope", "payloadType") != PAYLOAD:
        raise InvalidStatement(f"The envelope's payload type is not {PAYLOAD}.")
    signatures = _at(content, "dsseEnvelope", "signatures")
    if not isinstance(signatures, list) or len(signatures) != 1:
        count = len(signatures) if isinstance(signatures, list) else 0
        raise InvalidStatement(f"The envelope has {count} signatures instead of one.")
    try:
        payload = base64.b64decode(_at(content, "dsseEnvelope", "payload"), validate=True)
        signature = base64.b64decode(_at(signatures[0], "sig"), validate=True)
    except (TypeError, ValueError, binascii.Error):
        raise InvalidStatement("The envelope's payload or signature is not Base64.") from None
    if bundle_bytes(hint, payload, signature) != bundle:
        raise InvalidStatement("The bundle's bytes are not canonical.")
    return hint, payload, signature


def is_canonical(content: Mapping[str, Any], written: bytes) -> bool:
    try:
        return canonical(content) == written
    except (ValueError, RecursionError):
        return False


def json_object(content: bytes, complaint: str) -> dict[str, Any]:
    try:
        parsed = json.loads(content) if len(content) <= LARGEST_BUNDLE else None
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raise InvalidStatement(f"{complaint}.")
    return parsed


def _at(content: Any, *path: str) -> Any:
    """Return the value at a path in nested JSON objects, or None if the path is missing."""
    for key in path:
        content = content.get(key) if isinstance(content, dict) else None
    return content


def canonical(content: Mapping[str, Any]) -> bytes:
    """Return JSON in UTF-8 with sorted keys and no spaces. Raises ValueError for NaN and infinity."""
    return json.dumps(content, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


PREDICATES = "https://sovereign-pipeline.example/"
"""Prefix of this project's predicate types. The domain `.example` is reserved (RFC 2606), so no page exists there."""

GATE = f"{PREDICATES}gate/v1"
EVALUATION = f"{PREDICATES}evaluation/v1"
RECORD = f"{PREDICATES}record/v1"
WAIVER = f"{PREDICATES}waiver/v1"
REQUEST = f"{PREDICATES}request/v1"
APPROVAL = f"{PREDICATES}approval/v1"
TRANSITION = f"{PREDICATES}transition/v1"
RECALL = f"{PREDICATES}recall/v1"
RECALL_WAIVER = f"{PREDICATES}recall-waiver/v1"
KNOWN_ISSUE = f"{PREDICATES}known-issue/v1"
EARLY_CLOSING = f"{PREDICATES}early-closing/v1"
REVIEW = f"{PREDICATES}review/v1"
FLAG = f"{PREDICATES}flag/v1"
HOLD = f"{PREDICATES}hold/v1"
HOLD_ACCEPTANCE = f"{PREDICATES}hold-acceptance/v1"
PURGE = f"{PREDICATES}purge/v1"
TECHNICAL_FILE = f"{PREDICATES}technical-file/v1"
BUNDLE = f"{PREDICATES}bundle/v1"
EVIDENCE = f"{PREDICATES}evidence/v1"
BACKUP = f"{PREDICATES}backup/v1"
PROVENANCE = "https://slsa.dev/provenance/v1"
"""SLSA's predicate type for how an artifact was built."""
BILL_OF_MATERIALS = "https://cyclonedx.org/bom"
BUILD_TYPE = f"{PREDICATES}stage/v1"

FIELDS: Mapping[str, frozenset[str]] = {
    GATE: frozenset({"gate", "artifact", "outcome"}),
    EVALUATION: frozenset({"line", "artifact", "outcome"}),
    RECORD: frozenset({"line", "adapter"}),
    WAIVER: frozenset({"line", "gate", "artifact", "record", "kind", "reason"}),
    REQUEST: frozenset({"line", "adapter", "from", "to", "incumbent", "evidence", "policy", "reason", "expires"}),
    APPROVAL: frozenset({"decision"}),
    TRANSITION: frozenset({"line", "adapter", "from", "to", "sequence"}),
    RECALL: frozenset({"recall", "reason", "adapters", "at"}),
    RECALL_WAIVER: frozenset({"recall", "adapter", "reason", "at"}),
    KNOWN_ISSUE: frozenset({"adapter", "number", "text", "at"}),
    EARLY_CLOSING: frozenset({"line", "review", "ballots", "ballots_sha256", "reason"}),
    REVIEW: frozenset({"adapter", "number", "text", "at"}),
    FLAG: frozenset({"line", "sequence", "production", "staged", "cause", "reason"}),
    HOLD: frozenset({"line", "adapter", "incumbent", "outcome", "because", "bounds", "observations"}),
    HOLD_ACCEPTANCE: frozenset({"adapter", "judgement", "outcome", "reason", "at"}),
    PURGE: frozenset({"line", "adapter", "files", "reason"}),
    TECHNICAL_FILE: frozenset({"adapter", "record"}),
    BUNDLE: frozenset({"files"}),
    EVIDENCE: frozenset({"adapters", "classification", "entries", "made_at"}),
    BACKUP: frozenset({"archive", "checkpoint"}),
    PROVENANCE: frozenset({"buildDefinition", "runDetails"}),
    BILL_OF_MATERIALS: frozenset({"bomFormat", "specVersion"}),
}
"""Maps each predicate type to its required fields. Additional fields are allowed."""
DESCRIBES_FILES = frozenset({PROVENANCE, BILL_OF_MATERIALS, GATE, EVALUATION, RECORD, TECHNICAL_FILE, BACKUP})
"""Predicate types without text that a person wrote. The pipeline computes each text, or copies it from signed files. In
all other types, texts have a maximum length."""


def provenance(
    stage: str,
    parameters: Mapping[str, Any],
    inputs: Mapping[str, str],
    *,
    builder: str,
    libraries: Mapping[str, str],
    finished_on: str,
) -> dict[str, Any]:
    """Return the SLSA provenance of an artifact. It is the predicate of a statement about the artifact's manifest.

    Args:
        parameters: the parts of the recipe and the institution's policy that the stage reads.
        inputs: mapping of each input's name to its SHA-256.
        builder: digest of the source code that ran.
        libraries: mapping of each Python distribution to its version.
        finished_on: time at which the artifact was finished (UTC, RFC 3339).
    """
    definition = {
        "buildType": BUILD_TYPE,
        "externalParameters": {"stage": stage, "config": dict(parameters)},
        "internalParameters": {"libraries": dict(libraries)},
        "resolvedDependencies": [{"name": name, "digest": {"sha256": inputs[name]}} for name in sorted(inputs)],
    }
    run = {
        "builder": {"id": f"{PREDICATES}builder", "version": {"source": builder}},
        "metadata": {"finishedOn": finished_on},
    }
    return {"buildDefinition": definition, "runDetails": run}


STATEMENT = "https://in-toto.io/Statement/v1"


@dataclass(frozen=True)
class Subject:
    name: str
    sha256: str


@dataclass(frozen=True)
class Statement:
    """A claim (the predicate) about one or more files."""

    subjects: tuple[Subject, ...]
    predicate_type: str
    predicate: Mapping[str, Any]


@dataclass(frozen=True)
class Verified:
    """A statement with a valid signature, and the key that signed it."""

    statement: Statement
    key: TrustedKey


def sign_statement(signer: Signer, statement: Statement) -> bytes:
    """Sign a statement and return the bundle's bytes (canonical JSON and a line break). Raises ValueError for a
    malformed statement or a key that is not P-256, and InputError if a person's text in the statement is too long."""
    if fault := _fault(statement):
        raise ValueError(f"this statement cannot be signed: {fault}")
    if statement.predicate_type not in DESCRIBES_FILES:
        refuse_long_texts(statement.predicate)
    if algorithm_of(signer.public_pem) != "p256":
        raise ValueError("the key that signs a statement must be P-256")
    payload = canonical(_as_dict(statement))
    _statement_in(payload)
    return bundle_bytes(signer.keyid, payload, signer.sign(pre_authentication_encoding(payload)))


def verify_statement(
    bundle: bytes, trust: Trust, role: str, *, predicate_type: str, sha256: str, at_index: int | None = None
) -> Verified:
    """Verify that a key in this role signed a bundle's statement. Returns the statement and the key. Raises
    IntegrityError if the bundle or signature is invalid, if the key lacks the role or is revoked at `at_index`, or if
    the statement has another type or is not about the file.

    Args:
        predicate_type: the type that the statement must have.
        sha256: SHA-256 of the file that the statement must be about.
        at_index: ledger index of the statement's entry; None if there is no entry yet.
    """
    keyid, payload, signature = bundle_parts(bundle)
    key = trust.key(role, keyid)
    has_one_form = is_low_s(signature)  # a bundle's SHA-256 is a request's id, so only one form is valid
    if not has_one_form or not is_signed(key.public_pem, signature, pre_authentication_encoding(payload)):
        raise InvalidStatement(f"The signature by {keyid} does not match this statement.")
    if not trust.counts(role, keyid, at_index):
        at = "new statements" if at_index is None else f"index {at_index} of the log"
        raise IntegrityError(
            f"The key {keyid} of the role {role} is revoked from index {key.revoked_from} of the log on, so "
            f"it is not valid for {at}.",
            "Sign the statement again with another key of this role.",
        )
    statement = _statement_in(payload)
    if statement.predicate_type != predicate_type:
        raise InvalidStatement(f"The statement has the type {statement.predicate_type} instead of {predicate_type}.")
    if sha256 not in {subject.sha256 for subject in statement.subjects}:
        raise InvalidStatement(
            f"The statement is about {', '.join(subject.sha256 for subject in statement.subjects[:3])}, not about "
            f"{sha256}."
        )
    return Verified(statement, key)


def read_statement(bundle: bytes) -> Statement:
    """Return a bundle's statement **without verification**, for display only. Raises IntegrityError if the bytes are
    not a bundle."""
    return _statement_in(bundle_parts(bundle)[1])


def signed_by(bundle: bytes) -> str:
    """Return the key id in a bundle **without verification**, for display and to look up the key."""
    return bundle_parts(bundle)[0]


def _as_dict(statement: Statement) -> dict[str, Any]:
    return {
        "_type": STATEMENT,
        "subject": [{"name": each.name, "digest": {"sha256": each.sha256}} for each in statement.subjects],
        "predicateType": statement.predicate_type,
        "predicate": statement.predicate,
    }


def _statement_in(payload: bytes) -> Statement:
    content = json_object(payload, "The envelope's payload is not a statement")
    if content.get("_type") != STATEMENT:
        raise InvalidStatement(f"The payload's type is not {STATEMENT}.")
    try:
        subjects = tuple(Subject(each["name"], each["digest"]["sha256"]) for each in content["subject"])
        statement = Statement(subjects, content["predicateType"], content["predicate"])
    except (KeyError, TypeError):
        raise InvalidStatement("The statement has no subject, predicateType or predicate.") from None
    if fault := _fault(statement):
        raise InvalidStatement(f"The statement is malformed: {fault}.")
    if not is_canonical(_as_dict(statement), payload):
        raise InvalidStatement("The statement's bytes are not canonical.")
    return statement


def _fault(statement: Statement) -> str | None:
    """Return a description of a statement's error, or None."""
    names = [subject.name for subject in statement.subjects]
    if not names or len(set(names)) != len(names) or not all(isinstance(name, str) and name for name in names):
        return "its subjects must be one or more files, each listed once"
    if not all(isinstance(each.sha256, str) and SHA256.fullmatch(each.sha256) for each in statement.subjects):
        return "a subject's digest is not a SHA-256 in lower case"
    if not isinstance(statement.predicate_type, str) or statement.predicate_type not in FIELDS:
        return f"its type {statement.predicate_type} is unknown"
    if not isinstance(statement.predicate, Mapping):
        return "its predicate is not an object"
    if missing := FIELDS[statement.predicate_type] - {*statement.predicate}:
        return f"its predicate lacks {', '.join(sorted(missing))}"
    return None


PREDICATE = "https://model_signing/signature/v1.0"


def sign_listed(signer: Signer, files: Mapping[str, str], name: str) -> bytes:
    """Sign a model directory, given the digests of its files, and return the bundle's bytes.

    Args:
        files: mapping of each file's relative path to its SHA-256.
        name: name of the model, such as an adapter's digest.
    """
    if algorithm_of(signer.public_pem) != "p256":
        raise ValueError("the key that signs a model's directory must be P-256")
    payload = canonical(_statement(files, name))
    signature = signer.sign(pre_authentication_encoding(payload))
    return bundle_bytes(_hint(signer.public_pem), payload, signature)


def verify_listed(
    bundle: bytes, files: Mapping[str, str], name: str, trust: Trust, role: str, *, at_index: int | None = None
) -> TrustedKey:
    """Verify that a key in this role signed exactly these files under this name. Returns the key. Raises IntegrityError
    if the signature is invalid or a file differs from the signed list. The error names the first such file."""
    key, payload = _signed_by(bundle, trust, role, at_index)
    there = _statement(files, name)
    if canonical(there) != payload:
        raise InvalidStatement(f"{name}: {_difference(json_object(payload, 'This is not a list of files'), there)}")
    return key


def _signed_by(bundle: bytes, trust: Trust, role: str, at_index: int | None) -> tuple[TrustedKey, bytes]:
    """Verify a bundle's signature. Returns the key and the signed payload. Raises IntegrityError if the signature is
    invalid, or if the key lacks the role or is revoked at `at_index`."""
    hint, payload, signature = bundle_parts(bundle)
    key = next((each for each in trust.keys(role) if _hint(each.public_pem) == hint), None)
    if key is None:
        raise InvalidStatement(f"No key of the role {role} has the digest {hint}, which the bundle names.")
    if not is_signed(key.public_pem, signature, pre_authentication_encoding(payload)):
        raise InvalidStatement(f"The signature by {key.keyid} does not match this list of files.")
    if not trust.counts(role, key.keyid, at_index):
        raise InvalidStatement(f"The key {key.keyid} is revoked from index {key.revoked_from} of the log on.")
    return key, payload


def _statement(files: Mapping[str, str], name: str) -> dict[str, Any]:
    """Return the statement about a model directory: the files' digests, sorted by path, and a digest over them."""
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


def _hint(pem: str) -> str:
    """Return the SHA-256 of a key's PEM, which identifies the key in an OpenSSF Model Signing bundle."""
    return hashlib.sha256(pem.encode()).hexdigest()


def _difference(signed: dict[str, Any], there: dict[str, Any]) -> str:
    """Describe the first difference between the signed list and the files of a directory."""
    if signed.get("predicateType") != PREDICATE:
        return f"the statement has the type {signed.get('predicateType')}, not {PREDICATE}."
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
        return f"this directory was signed as {name}, not as {asked}."
    return "the list of files is not in canonical form."
