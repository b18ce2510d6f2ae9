"""Verify publishers' signatures when a bundle is packed, and record which files each signature covers.

The operator collects the signatures in a folder with the same paths as the bundle. A signature covers one of these:

- one file: `models/gemma/model.safetensors.sigstore.json`;
- a list of SHA-256 digests: `models/gemma/SHA256SUMS`, signed by `SHA256SUMS.sigstore.json` in the same folder;
- the list of files inside the signature: `models/gemma/model.sig` (OpenSSF model signing).
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field, model_validator

from sovereign_pipeline.base.errors import InputError, IntegrityError, NotFoundError
from sovereign_pipeline.base.files import file_sha256, read_bounded
from sovereign_pipeline.ops.bundle_tool import on_one_line
from sovereign_pipeline.policy.recipe_model import RecipeModel, read_yaml
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
    from cryptography.x509 import Certificate

ISSUER_OID = "1.3.6.1.4.1.57264.1.8"
MOST_SAID = 200
"""Maximum length of a quoted reason in a message."""


class BadSignature(IntegrityError):
    """Raised when a publisher's signature is invalid or does not cover the packed file."""

    usual_hint = "Get the signature and its file again from the publisher."


@dataclass(frozen=True)
class Content:
    """A file to pack into a bundle."""

    name: str
    """File name in the bundle, such as `wheels/torch-2.13.0-….whl`."""
    source: Path | bytes
    origin: str
    """Origin of the file, and the file that pins its digest."""
    publisher: str = ""
    """Publishers whose signatures over the file were verified; empty if there are none."""


def with_publishers(contents: Sequence[Content], signatures: Path, publishers: Path) -> list[Content]:
    """Verify all signatures, and record in each packed file which publishers signed it. Return the packed files,
    followed by the signed lists and the signatures.

    Args:
        signatures: the folder of signatures.
        publishers: the folder of trusted publishers.

    Raises IntegrityError for a signature that is invalid or covers no packed file. Raises InputError if the folder has
    no signatures, lacks a list that one of the signatures covers, or has a file that is neither of these.
    """
    trusted = load_publishers(publishers)
    paths = sorted(path for path in signatures.rglob("*") if path.is_symlink() or not path.is_dir())
    files = [path for path in paths if path.is_file() and not path.is_symlink()]
    found = [path for path in files if _is_bundle(path) or path.name == MODEL]
    if not found:
        raise InputError(
            f"{signatures}: the folder has no signatures (*{SUFFIX}, {MODEL}).",
            "Choose the folder with the signatures.",
        )
    by_name = {each.name: each for each in contents}
    lists: dict[Path, Content] = {}
    for signature in found:
        name = signature.relative_to(signatures).as_posix()
        signed = signature.with_name(signature.name.removesuffix(SUFFIX))
        if not _is_bundle(signature):
            publisher, digests = signed_model(signature, trusted)
            covered = _agreeing(digests, signature, name, by_name)
        elif signed.name == LIST:
            if not signed.is_file():
                raise InputError(
                    f"{signed}: this list is missing, although its signature {signature.name} exists.", "Add the list."
                )
            publisher = sigstore_publisher(signature, signed, trusted)
            covered = _agreeing(_listed(signed), signed, name, by_name)
            listed = Content(f"publishers/{name.removesuffix(SUFFIX)}", signed, "list of a publisher")
            lists[signed] = _also_signed(lists.get(signed, listed), publisher)
        else:
            covered = [name.removesuffix(SUFFIX)]
            if covered[0] not in by_name:
                raise IntegrityError(
                    f"{signature}: the bundle has no file that this signature covers.",
                    "Remove the signature, or correct its name.",
                )
            publisher = sigstore_publisher(signature, _path(by_name[covered[0]]), trusted)
        by_name |= {each: _also_signed(by_name[each], publisher) for each in covered}
    if passed_over := [path for path in paths if path not in found and path not in lists]:
        raise InputError(
            f"{passed_over[0]}: this file is neither a signature nor a signed list.",
            "Remove it, or correct its name. Replace a symbolic link with its target.",
        )
    carried = (
        Content(f"publishers/{path.relative_to(signatures).as_posix()}", path, "signature of a publisher")
        for path in found
    )
    return [*(by_name[each.name] for each in contents), *lists.values(), *carried]


@dataclass(frozen=True)
class Certified:
    """The verified content of a sigstore bundle, and its signer's identity."""

    identity: str
    """The certificate's only subject."""
    issuer: str
    """OIDC issuer that authenticated the signer to sigstore."""
    payload: bytes | None
    """In-toto statement, or None if the signature is over the file itself."""


def certified(bundle: bytes, sha256: str | None, root: Path) -> Certified:
    """Verify a sigstore bundle against a trusted root. Returns the bundle's statement and signer.

    Args:
        sha256: SHA-256 of the signed file; None if a statement was signed.
        root: path of sigstore's trusted root.

    Raises IntegrityError, with the reason, if the bundle is invalid, and NotFoundError if `sigstore` is not installed.
    """
    try:
        from sigstore.hashes import Hashed
        from sigstore.models import Bundle, TrustedRoot
        from sigstore.verify import Verifier
        from sigstore_models.common.v1 import HashAlgorithm
    except ImportError:
        raise NotFoundError(
            "sigstore is not installed, so certificates of publishers cannot be verified.",
            "Pack from a checkout that `make` has set up, or run: pip install 'sovereign-pipeline[publishers]'",
        ) from None
    policy = _ReadIdentity()
    try:
        verifier = Verifier(trusted_root=TrustedRoot.from_file(str(root)))
        parsed = Bundle.from_json(bundle)
        if sha256 is not None:
            digest = Hashed(algorithm=HashAlgorithm.SHA2_256, digest=bytes.fromhex(sha256))
            verifier.verify_artifact(digest, parsed, policy)
            return Certified(policy.identity, policy.issuer, None)
        kind, payload = verifier.verify_dsse(parsed, policy)
    except Exception as error:  # every error of the library or its parsers means invalid
        said = on_one_line(" ".join(f"{type(error).__name__}: {error}".split()))
        raise IntegrityError(f"The signature is not valid under {root.name} ({said[:MOST_SAID]}).") from None
    if kind != PAYLOAD:
        raise IntegrityError(f"The type of the signed payload is {kind[:MOST_SAID]!a}, not {PAYLOAD}.")
    return Certified(policy.identity, policy.issuer, payload)


class _ReadIdentity:
    """A verification policy for the sigstore library that records the certificate's identity for a later check."""

    identity = ""
    issuer = ""

    def verify(self, cert: "Certificate") -> None:
        from cryptography.hazmat import asn1
        from cryptography.x509 import (
            ObjectIdentifier,
            RFC822Name,
            SubjectAlternativeName,
            UniformResourceIdentifier,
            UnrecognizedExtension,
        )
        from sigstore.errors import VerificationError

        names = list(cert.extensions.get_extension_for_class(SubjectAlternativeName).value)
        issuer = cert.extensions.get_extension_for_oid(ObjectIdentifier(ISSUER_OID)).value
        if len(names) != 1 or not isinstance(names[0], RFC822Name | UniformResourceIdentifier):
            raise VerificationError("the certificate does not have exactly one subject")
        assert isinstance(issuer, UnrecognizedExtension)  # cryptography has no class for it
        self.identity, self.issuer = names[0].value, asn1.decode_der(str, issuer.value)
        if not all(each and each.isprintable() for each in (self.identity, self.issuer)):
            raise VerificationError("the certificate's subject is neither an email address nor a URI")


LARGEST_KEY = 1 << 16
CURVES = ("secp256r1", "secp384r1", "secp521r1")
ROOT_NAME = re.compile(r"[\w.-]+\.json")
ENDINGS = (".pub", ".yaml", ".json")


class CertifiedIdentity(RecipeModel):
    """The identity that a publisher's sigstore certificate must have."""

    issuer: Annotated[str, Field(min_length=1, examples=["https://token.actions.githubusercontent.com"])]
    """OIDC issuer that authenticated the publisher to sigstore. The certificate must name exactly this issuer."""

    identity: Annotated[str, Field(min_length=1)]
    """An email address, or a workflow with its tag. The certificate must have exactly this subject."""

    trusted_root: Annotated[str, Field(examples=["sigstore-root.json"])]
    """Name of the file with sigstore's trusted root (certificate authority and logs), in the same folder as this
    file."""

    @model_validator(mode="after")
    def _name_a_file(self) -> "CertifiedIdentity":
        if not ROOT_NAME.fullmatch(self.trusted_root):
            raise ValueError("trusted_root must be the name of a .json file in the same folder")
        return self

    def is_of(self, identity: str, issuer: str) -> bool:
        """Return whether a certificate with this subject and issuer belongs to this publisher."""
        return (identity, issuer) == (self.identity, self.issuer)


@dataclass(frozen=True)
class Publishers:
    folder: Path
    keys: Mapping[str, "EllipticCurvePublicKey"]
    """Mapping of a publisher's name (file name without suffix) to the public key."""
    identities: Mapping[str, CertifiedIdentity]
    """Mapping of a publisher's name (file name without suffix) to the certified identity."""

    def by_root(self) -> Iterator[tuple[Path, dict[str, CertifiedIdentity]]]:
        """Yield each sigstore trusted root, with the publisher identities whose certificates are verified with it."""
        for root in sorted({each.trusted_root for each in self.identities.values()}):
            yield (
                self.folder / root,
                {name: each for name, each in self.identities.items() if each.trusted_root == root},
            )


def load_publishers(folder: Path) -> Publishers:
    """Load a folder of trusted publishers. Raises InputError or IntegrityError for an invalid file."""
    for path in sorted(folder.iterdir()) if folder.exists() else ():
        if path.suffix not in ENDINGS or not path.is_file():
            raise InputError(
                f"{path}: files of this type cannot name a publisher.",
                f"Remove the file, or rename it to one of *{', *'.join(ENDINGS)}.",
            )
    return Publishers(
        folder,
        {path.stem: _public_key(path) for path in sorted(folder.glob("*.pub"))},
        {path.stem: _identity(path) for path in sorted(folder.glob("*.yaml"))},
    )


def _identity(path: Path) -> CertifiedIdentity:
    identity = read_yaml(CertifiedIdentity, path)
    if not (path.parent / identity.trusted_root).is_file():
        raise InputError(
            f"{path}: {identity.trusted_root} is missing in the same folder.",
            "Fetch the trusted root of the sigstore instance, and add it to the folder.",
        )
    return identity


def _public_key(path: Path) -> "EllipticCurvePublicKey":
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    hint = "Replace it with the publisher's public key: PEM, on P-256, P-384 or P-521."
    try:
        key = load_pem_public_key(read_bounded(path, LARGEST_KEY, hint))
    except (ValueError, UnsupportedAlgorithm):
        raise IntegrityError(f"{path}: this is not a public key.", hint) from None
    if not isinstance(key, EllipticCurvePublicKey) or key.curve.name not in CURVES:
        raise IntegrityError(f"{path}: this type of key is not supported.", hint)
    return key


SUFFIX, MODEL = ".sigstore.json", "model.sig"
MEDIA_TYPE = "application/vnd.dev.sigstore.bundle"
STATEMENTS = ("https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1")
PROVENANCE = "https://slsa.dev/provenance/v1"
"""The only type of statement (SLSA provenance) that is accepted as a signature over a file. In such a statement, a
builder states that it built this file."""


@dataclass(frozen=True)
class _Bundle:
    path: Path
    raw: bytes
    signature: bytes
    payload: bytes | None
    """In-toto statement, or None if the signature is over the file itself."""
    has_certificate: bool


def sigstore_publisher(signature: Path, signed: Path, publishers: Publishers) -> str:
    """Return the publisher who signed a file. Raises IntegrityError if the signature does not cover this file, or if
    the signer is not trusted."""
    bundle = _read(signature)
    publisher, payload = _verified(bundle, signed, publishers)
    if payload is None:
        return publisher
    statement = _statement(payload, signature)
    if statement.get("predicateType") != PROVENANCE:
        raise IntegrityError(
            f"{signature}: a statement of the type {statement.get('predicateType')!a} is not accepted as a "
            "signature over a file.",
            "Get a signature over the file, or its SLSA provenance.",
        )
    digest = file_sha256(signed)
    if not any(_sha256_of(subject) == digest for subject in _list_at(statement, "subject", signature)):
        raise BadSignature(f"{signature}: the signed statement is about another file, not {signed.name}.")
    return publisher


def signed_model(signature: Path, publishers: Publishers) -> tuple[str, dict[str, str]]:
    """Return a model's publisher, and a mapping of the signed files' paths to SHA-256. Raises IntegrityError if the
    signature is invalid, not by a trusted publisher, or contains no such list."""
    bundle = _read(signature)
    if bundle.payload is None:
        raise BadSignature(f"{signature}: this signature contains no list of a model's files.")
    publisher, payload = _verified(bundle, None, publishers)
    assert payload is not None  # never None here, because the bundle has a payload
    statement = _statement(payload, signature)
    predicate = statement.get("predicate")
    if statement.get("predicateType") != MODEL_FILES or not isinstance(predicate, dict):
        raise BadSignature(f"{signature}: the signed statement is not a list of a model's files ({MODEL_FILES}).")
    files: dict[str, str] = {}
    for resource in _list_at(predicate, "resources", signature):
        name, digest = resource.get("name"), resource.get("digest")
        if resource.get("algorithm") != "sha256" or not isinstance(digest, str) or not SHA256.fullmatch(digest):
            raise IntegrityError(
                f"{signature}: the digest that this signature lists for {name!a} is not a SHA-256.",
                "Ask the publisher for SHA-256 digests.",
            )
        if not isinstance(name, str) or name in files:
            raise BadSignature(f"{signature}: the file name {name!a} is repeated or missing.")
        files[name] = digest
    return publisher, files


def _verified(bundle: _Bundle, signed: Path | None, publishers: Publishers) -> tuple[str, bytes | None]:
    """Return the publisher who signed, and the signed statement, or None if the signature is over the file. Raises
    IntegrityError if no trusted publisher signed, and NotFoundError if there is no public key or no sigstore."""
    for name, key in publishers.keys.items():
        if _is_signed(key, bundle, signed):
            return f"sigstore, {name} ({_fingerprint(key)})", bundle.payload
    hint = (
        f"Get the file and its signature again, or add the publisher to {publishers.folder} as NAME.pub or NAME.yaml."
    )
    if not bundle.has_certificate:
        if not publishers.keys:
            raise NotFoundError(
                f"{publishers.folder}: there is no publisher's public key to verify {bundle.path.name}.", hint
            )
        raise IntegrityError(f"{bundle.path}: no public key in {publishers.folder} verifies this signature.", hint)
    digest = file_sha256(signed) if signed is not None and bundle.payload is None else None
    reason = f"{publishers.folder} contains no certified identity."
    for root, identities in publishers.by_root():
        try:
            found = certified(bundle.raw, digest, root)
        except IntegrityError as error:
            reason = error.message
            continue
        for name, identity in identities.items():
            if identity.is_of(found.identity, found.issuer):
                return f"sigstore, {name} ({found.identity}, by {found.issuer})", found.payload
        reason = f"The signer {found.identity} (issuer {found.issuer}) is not in {publishers.folder}."
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
        assert signed is not None  # `signed_model` has rejected a bundle without a list
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
    raw = read_bounded(path, LARGEST_BUNDLE, BadSignature.usual_hint)
    content = json_object(raw, f"{path}: this is not a sigstore bundle")
    material, envelope, message = (
        content.get(each) for each in ("verificationMaterial", "dsseEnvelope", "messageSignature")
    )
    if not str(content.get("mediaType")).startswith(MEDIA_TYPE) or not isinstance(material, dict):
        raise BadSignature(f"{path}: this is not a sigstore bundle.")
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
    raise BadSignature(f"{path}: the bundle must contain one signature, over a file or an in-toto statement.")


def _decoded(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


def _statement(payload: bytes, path: Path) -> dict[str, Any]:
    statement = json_object(payload, f"{path}: the signed content is not an in-toto statement")
    if statement.get("_type") not in STATEMENTS:
        raise BadSignature(f"{path}: the signed content is not an in-toto statement.")
    return statement


def _list_at(content: dict[str, Any], key: str, path: Path) -> list[dict[str, Any]]:
    found = content.get(key)
    if not isinstance(found, list) or not found or not all(isinstance(each, dict) for each in found):
        raise BadSignature(f"{path}: the statement has no {key}.")
    return found


def _sha256_of(subject: dict[str, Any]) -> object:
    digest = subject.get("digest")
    return digest.get("sha256") if isinstance(digest, dict) else None


LIST = "SHA256SUMS"
LINE = re.compile(r"([0-9a-f]{64}) [ *](.+)")


def _is_bundle(path: Path) -> bool:
    return path.name.endswith(SUFFIX) and path.name != SUFFIX


def _also_signed(content: Content, publisher: str) -> Content:
    already = content.publisher.split("; ") if content.publisher else []
    return replace(content, publisher="; ".join(sorted({*already, publisher})))


def _listed(sums: Path) -> dict[str, str]:
    """Parse a list in the format of `sha256sum`. Return a mapping of relative path to digest."""
    digests: dict[str, str] = {}
    for number, line in enumerate(sums.read_text(encoding="utf-8", errors="replace").splitlines(), start=1):
        matched = LINE.fullmatch(line)
        if matched is None:
            raise BadSignature(f"{sums}, line {number}: this is not a SHA-256 followed by a file name.")
        name = matched[2].removeprefix("./")
        if digests.setdefault(name, matched[1]) != matched[1]:
            raise BadSignature(f"{sums}, line {number}: an earlier line lists a different digest for {name!a}.")
    return digests


def _agreeing(digests: Mapping[str, str], listing: Path, name: str, contents: Mapping[str, Content]) -> list[str]:
    """Return the names of the packed files that a listing covers. Raises IntegrityError if there are none, or if one of
    them differs from its listed digest.

    Args:
        name: path of the listing's signature in the folder of signatures. The listed files are in the bundle's folder
            with the same path.
    """
    folder = name.rpartition("/")[0]
    paths = {f"{folder}/{path}".removeprefix("/"): digest for path, digest in digests.items()}
    names = [each for each in paths if each in contents]
    for each in names:
        if file_sha256(_path(contents[each])) != paths[each]:
            raise BadSignature(f"{each}: the file differs from the publisher's {listing}.")
    if not names:
        raise IntegrityError(
            f"{listing}: no file that it lists is packed.", "Remove the list, or move it to the folder of its files."
        )
    return names


def _path(content: Content) -> Path:
    """Return a packed file's path. Raises IntegrityError for a file that is generated during packing, because no
    publisher can have signed it."""
    if not isinstance(content.source, Path):
        raise IntegrityError(
            f"{content.name}: this file is generated during packing, so no publisher can have signed it.",
            "Remove the signature.",
        )
    return content.source
