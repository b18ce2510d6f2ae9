"""What publishers attest of their wheels on a package index (PEP 740), fetched and verified when a bundle is packed.

An attestation is a statement about a file's name and SHA-256, signed under a certificate of sigstore's. Each that the
index gives must hold. Whom it names is recorded, and anybody can be; it counts as a publisher's signature where
`data/publishers/` names that identity for the distribution, and then every wheel of the distribution must have one.
What belongs here: that. What does not: asking the index (`package_index.py`), and signatures that an operator fetched
(`publishers.py`).
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from packaging.utils import canonicalize_name, parse_wheel_filename
from pydantic import Field, ValidationError

from sovereign_pipeline.artifacts.stage import Progress
from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.files import file_sha256
from sovereign_pipeline.base.frozen import Frozen
from sovereign_pipeline.bundle.package_index import configured_indexes, provenance_of
from sovereign_pipeline.bundle.packing import Content
from sovereign_pipeline.bundle.sigstore_certificates import MOST_SAID, Certified, certified
from sovereign_pipeline.bundle.trusted_publishers import Publishers, load_publishers
from sovereign_pipeline.bundle.wheels import PUBLISHED
from sovereign_pipeline.signing.bundles import BUNDLE_MEDIA_TYPE, PAYLOAD

STATEMENT = "https://in-toto.io/Statement/v1"
KINDS = ("https://docs.pypi.org/attestations/publish/v1", "https://slsa.dev/provenance/v1")
"""The kinds of statement that an index takes: who published the file, and who built it."""
AGAIN = "Find out why the package index gives it so."


class _Material(Frozen):
    certificate: str
    transparency_entries: Annotated[list[dict[str, Any]], Field(min_length=1, fail_fast=True)]
    timestamps: Annotated[list[str], Field(fail_fast=True)] | None = None
    """Of a time stamp authority: of attestations whose log signs no time (drafted for PEP 740)."""


class _Envelope(Frozen):
    statement: str
    signature: str


class Attestation(Frozen):
    """One attestation, as PEP 740 has it."""

    version: Literal[1]
    verification_material: _Material
    envelope: _Envelope

    def as_bundle(self) -> bytes:
        """The sigstore bundle that it was made from."""
        material: dict[str, Any] = {
            "certificate": {"rawBytes": self.verification_material.certificate},
            "tlogEntries": self.verification_material.transparency_entries,
        }
        if stamps := self.verification_material.timestamps:
            signed = [{"signedTimestamp": each} for each in stamps]
            material["timestampVerificationData"] = {"rfc3161Timestamps": signed}
        envelope = {
            "payload": self.envelope.statement,
            "payloadType": PAYLOAD,
            "signatures": [{"sig": self.envelope.signature}],
        }
        content = {"mediaType": BUNDLE_MEDIA_TYPE, "verificationMaterial": material, "dsseEnvelope": envelope}
        return json.dumps(content).encode()


class _OfOnePublisher(Frozen):
    publisher: dict[str, Any]
    """As the index says; what counts is the certificate."""
    attestations: Annotated[list[Attestation], Field(fail_fast=True)]


class Provenance(Frozen):
    """What an index gives for a file: attestations, by the publisher from whom it took them."""

    version: Literal[1]
    attestation_bundles: Annotated[list[_OfOnePublisher], Field(fail_fast=True)]
    """Read to the first mistake: a million would be told at 700 bytes each."""


@dataclass(frozen=True)
class _Wheel:
    content: Content
    file: str
    sha256: str

    @property
    def distribution(self) -> str:
        return canonicalize_name(self.file.partition("-")[0])


@dataclass(frozen=True)
class _Attestor:
    """Who signed one attestation."""

    who: Certified
    names: tuple[str, ...]
    """Of the identities in `data/publishers/` that they are, for this distribution."""


def with_attestations(contents: Sequence[Content], publishers: Path, progress: Progress) -> list[Content]:
    """The contents, each wheel with whom its attestations name, and what the index gave.

    Without a certified identity in the publishers' folder nothing is fetched, since nothing could be verified.

    Raises IntegrityError for an attestation that does not hold, and for a wheel of a distribution whose publisher is
    named that has none of that publisher's; NotFoundError where an index cannot be asked.
    """
    trusted = load_publishers(publishers)
    if not trusted.identities:
        progress(f"attestations of wheels: not fetched, since {publishers} names no certified identity")
        return list(contents)
    import requests

    indexes = configured_indexes()
    progress(f"fetching attestations of wheels, from {len(indexes)} package indexes")
    wheels = [_wheel(each) for each in contents if each.name.startswith("wheels/")]
    found = [each for each in contents if not each.name.startswith("wheels/")]
    attested = 0
    with requests.Session() as session:
        for wheel in wheels:
            provenance = None
            if wheel.content.origin == PUBLISHED:
                provenance = provenance_of(session, indexes, wheel.distribution, wheel.file, wheel.sha256)
            attestors = [] if provenance is None else list(_attestors(wheel, provenance, trusted))
            found.append(_judged(wheel, attestors, trusted))
            if provenance is not None and attestors:
                name = f"publishers/{wheel.content.name}.provenance"
                found.append(Content(name, provenance, "attestations that the package index gave"))
                attested += 1
    carried = {each.distribution for each in wheels}
    for name, identity in trusted.identities.items():
        for distribution in sorted({*identity.distributions} - carried):
            progress(f"{distribution}: {name}.yaml names its publisher, and no wheel of it is carried")
    progress(f"{attested} of {len(wheels)} wheels are attested")
    return found


def _wheel(content: Content) -> _Wheel:
    assert isinstance(content.source, Path)  # wheels are downloaded or built
    return _Wheel(content, content.source.name, file_sha256(content.source))


def _judged(wheel: _Wheel, attestors: Sequence[_Attestor], trusted: Publishers) -> Content:
    """The wheel with whom its attestations name. Raises IntegrityError where its publisher is named, and is none."""
    content = wheel.content
    counting = sorted({f"attestation, {name} ({_told(each)})" for each in attestors for name in each.names})
    if counting:
        return replace(content, publisher="; ".join(counting))
    others = "; ".join(sorted({_told(each) for each in attestors}))
    if named := [name for name, each in trusted.identities.items() if wheel.distribution in each.distributions]:
        without = "it was built here" if content.origin != PUBLISHED else "the package index gives no attestation"
        raise IntegrityError(
            f"{wheel.file}: {f'it is attested by {others}' if others else without}, and its publisher is, by "
            f"{trusted.folder}, {' or '.join(named)}.",
            "Find out who published it, or use a package index that gives its attestations.",
        )
    if others:
        return replace(content, origin=f"{content.origin}; attested by {others}, whom this institution does not name")
    return content


def _told(attestor: _Attestor) -> str:
    return f"{attestor.who.identity}, by {attestor.who.issuer}"


def _attestors(wheel: _Wheel, provenance: bytes, trusted: Publishers) -> Iterator[_Attestor]:
    """Who signed each attestation. Raises IntegrityError for one that does not hold, or is not about this wheel."""
    try:
        parsed = Provenance.model_validate_json(provenance)
    except ValidationError as error:
        detail = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in detail["loc"])
        raise IntegrityError(
            f"{wheel.file}: its provenance is malformed ({place[:MOST_SAID]!a}: {detail['msg']}).", AGAIN
        ) from None
    for attestation in (each for bundle in parsed.attestation_bundles for each in bundle.attestations):
        attestor = _attestor(wheel, attestation, trusted)
        if not _is_about(wheel, attestor.who.payload or b""):
            raise IntegrityError(f"{wheel.file}: an attestation of the package index is about something else.", AGAIN)
        yield attestor


def _attestor(wheel: _Wheel, attestation: Attestation, trusted: Publishers) -> _Attestor:
    who: Certified | None = None
    names: list[str] = []
    reason = ""
    for root, identities in trusted.by_root():
        try:
            who = certified(attestation.as_bundle(), None, root)
        except IntegrityError as error:
            reason = error.message
            continue
        for name, each in identities.items():
            if wheel.distribution in each.distributions and each.is_of(who.identity, who.issuer):
                names.append(name)
    if who is None:
        raise IntegrityError(
            f"{wheel.file}: an attestation of the package index is wrong. {reason}",
            f"{AGAIN} Each trusted root in {trusted.folder} was tried.",
        )
    return _Attestor(who, tuple(names))


def _is_about(wheel: _Wheel, payload: bytes) -> bool:
    """Whether a statement is about this wheel, and of a kind that counts. Names are compared as PyPI does it."""
    with suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
        statement = json.loads(payload)
        (subject,) = statement["subject"]
        return (
            statement["_type"] == STATEMENT
            and statement["predicateType"] in KINDS
            and subject["digest"]["sha256"] == wheel.sha256
            and parse_wheel_filename(subject["name"]) == parse_wheel_filename(wheel.file)
        )
    return False
