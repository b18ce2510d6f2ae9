"""Sigstore bundles of publishers: over a file, or over a model's files (OpenSSF model signing, `model.sig`).

A bundle counts by a public key of the institution's choice, whatever else it holds, or by a certificate that names an
identity of its choice. What belongs here: reading a bundle, and whose it is. What does not: what its files cover
(`publishers.py`), and this project's own bundles (`record/statements.py`), which have one spelling.
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sovereign_pipeline.base.errors import IntegrityError, NotFoundError
from sovereign_pipeline.base.files import file_sha256, read_bounded
from sovereign_pipeline.bundle.sigstore_certificates import certified
from sovereign_pipeline.bundle.trusted_publishers import Publishers
from sovereign_pipeline.record.statements import (
    LARGEST_BUNDLE,
    PAYLOAD,
    SHA256,
    json_object,
    pre_authentication_encoding,
)
from sovereign_pipeline.record.statements import PREDICATE as MODEL_FILES

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

SUFFIX, MODEL = ".sigstore.json", "model.sig"
MEDIA_TYPE = "application/vnd.dev.sigstore.bundle"
STATEMENTS = ("https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1")
PROVENANCE = "https://slsa.dev/provenance/v1"
"""The one statement about a file that counts as a signature over it: that its publisher built it."""
AGAIN = "Get it again from the publisher."


@dataclass(frozen=True)
class _Bundle:
    path: Path
    raw: bytes
    signature: bytes
    payload: bytes | None
    """An in-toto statement; None: the signature is over the file itself."""
    has_certificate: bool


def sigstore_publisher(signature: Path, signed: Path, publishers: Publishers) -> str:
    """Whose signature over a file it is. Raises IntegrityError where it is over another, or of nobody who counts."""
    bundle = _read(signature)
    publisher, payload = _verified(bundle, signed, publishers)
    if payload is None:
        return publisher
    statement = _statement(payload, signature)
    if statement.get("predicateType") != PROVENANCE:
        raise IntegrityError(
            f"{signature}: the statement is of the kind {statement.get('predicateType')!a}, which is no signature.",
            "Get a signature over the file, or its SLSA provenance.",
        )
    digest = file_sha256(signed)
    if not any(_sha256_of(subject) == digest for subject in _list_at(statement, "subject", signature)):
        raise IntegrityError(f"{signature}: it is about another file than {signed.name}.", AGAIN)
    return publisher


def signed_model(signature: Path, publishers: Publishers) -> tuple[str, dict[str, str]]:
    """Whose signature it is, and over what: path in the model's folder -> SHA-256. Raises IntegrityError."""
    bundle = _read(signature)
    if bundle.payload is None:
        raise IntegrityError(f"{signature}: it holds no list of a model's files.", AGAIN)
    publisher, payload = _verified(bundle, None, publishers)
    assert payload is not None  # as the bundle's was
    statement = _statement(payload, signature)
    predicate = statement.get("predicate")
    if statement.get("predicateType") != MODEL_FILES or not isinstance(predicate, dict):
        raise IntegrityError(f"{signature}: it is no list of a model's files ({MODEL_FILES}).", AGAIN)
    files: dict[str, str] = {}
    for resource in _list_at(predicate, "resources", signature):
        name, digest = resource.get("name"), resource.get("digest")
        if resource.get("algorithm") != "sha256" or not isinstance(digest, str) or not SHA256.fullmatch(digest):
            raise IntegrityError(
                f"{signature}: it names {name!a} by another digest than SHA-256.", "Ask the publisher for one."
            )
        if not isinstance(name, str) or name in files:
            raise IntegrityError(f"{signature}: it names {name!a} twice, or has no name.", AGAIN)
        files[name] = digest
    return publisher, files


def _verified(bundle: _Bundle, signed: Path | None, publishers: Publishers) -> tuple[str, bytes | None]:
    """Whose signature it is, and the statement that was verified. Raises IntegrityError, NotFoundError."""
    for name, key in publishers.keys.items():
        if _is_signed(key, bundle, signed):
            return f"sigstore, {name} ({_fingerprint(key)})", bundle.payload
    hint = f"Get file and bundle again, or put whom you trust into {publishers.folder}: NAME.pub or NAME.yaml."
    if not bundle.has_certificate:
        if not publishers.keys:
            raise NotFoundError(
                f"{publishers.folder}: there is no publisher's public key for {bundle.path.name}.", hint
            )
        raise IntegrityError(f"{bundle.path}: no public key in {publishers.folder} signed this.", hint)
    digest = file_sha256(signed) if signed is not None and bundle.payload is None else None
    reason = f"{publishers.folder} names no certified identity."
    for root, identities in publishers.by_root():
        try:
            found = certified(bundle.raw, digest, root)
        except IntegrityError as error:
            reason = error.message
            continue
        for name, identity in identities.items():
            if identity.is_of(found.identity, found.issuer):
                return f"sigstore, {name} ({found.identity}, by {found.issuer})", found.payload
        reason = f"It was signed by {found.identity}, by {found.issuer}, whom {publishers.folder} does not name."
    raise IntegrityError(f"{bundle.path}: {reason}", hint)


def _is_signed(key: "EllipticCurvePublicKey", bundle: _Bundle, signed: Path | None) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric.ec import ECDSA
    from cryptography.hazmat.primitives.asymmetric.utils import Prehashed

    by_size: dict[int, hashes.HashAlgorithm] = {256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}
    algorithm = by_size[key.curve.key_size]
    if bundle.payload is not None:
        digest = hashlib.new(algorithm.name, pre_authentication_encoding(bundle.payload)).digest()
    else:
        assert signed is not None  # a model's bundle without a list was refused
        with signed.open("rb") as stream:
            digest = hashlib.file_digest(stream, algorithm.name).digest()
    try:
        key.verify(bundle.signature, digest, ECDSA(Prehashed(algorithm)))
    except InvalidSignature:
        return False
    return True


def _fingerprint(key: "EllipticCurvePublicKey") -> str:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _read(path: Path) -> _Bundle:
    raw = read_bounded(path, LARGEST_BUNDLE, AGAIN)
    content = json_object(raw, f"{path}: this is no sigstore bundle")
    material, envelope, message = (
        content.get(each) for each in ("verificationMaterial", "dsseEnvelope", "messageSignature")
    )
    if not str(content.get("mediaType")).startswith(MEDIA_TYPE) or not isinstance(material, dict):
        raise IntegrityError(f"{path}: this is no sigstore bundle.", AGAIN)
    has_certificate = bool({"certificate", "x509CertificateChain"} & material.keys())
    try:
        if isinstance(message, dict) and envelope is None:
            return _Bundle(path, raw, _decoded(message["signature"]), None, has_certificate)
        if isinstance(envelope, dict) and message is None and envelope["payloadType"] == PAYLOAD:
            (signature,) = envelope["signatures"]
            payload = _decoded(envelope["payload"])
            return _Bundle(path, raw, _decoded(signature["sig"]), payload, has_certificate)
    except (KeyError, TypeError, ValueError, binascii.Error):
        pass
    raise IntegrityError(f"{path}: the bundle does not hold one signature, over a file or an in-toto statement.", AGAIN)


def _decoded(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _statement(payload: bytes, path: Path) -> dict[str, Any]:
    statement = json_object(payload, f"{path}: what is signed is no in-toto statement")
    if statement.get("_type") not in STATEMENTS:
        raise IntegrityError(f"{path}: what is signed is no in-toto statement.", AGAIN)
    return statement


def _list_at(content: dict[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    found = content.get(key)
    if not isinstance(found, list) or not found or not all(isinstance(each, dict) for each in found):
        raise IntegrityError(f"{path}: the statement has no {key}.", AGAIN)
    return found


def _sha256_of(subject: dict[str, Any]) -> object:
    digest = subject.get("digest")
    return digest.get("sha256") if isinstance(digest, dict) else None
