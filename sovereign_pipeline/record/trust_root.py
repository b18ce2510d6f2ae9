"""Read and verify the trust root (TUF metadata), which lists the keys, their roles and their revocations."""

import hashlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar, cast

from cryptography.hazmat.primitives.asymmetric import ed25519
from securesystemslib.signer import Key, SSlibKey
from securesystemslib.signer import Signature as TufSignature
from securesystemslib.signer import Signer as TufSigner
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Key as TufKey
from tuf.api.metadata import Metadata, Root, Targets
from tuf.api.serialization.json import JSONSerializer

from sovereign_pipeline.base.errors import InputError, IntegrityError, NotFoundError
from sovereign_pipeline.record.keys import Algorithm, Signer, keyid_of, public_pem_of, read_public_key


class InvalidTrustRoot(IntegrityError):
    """Raised when a file of the trust root is malformed, or contains an invalid signature or key."""

    usual_hint = "Copy the file again from its source."


ROLES: Mapping[str, Algorithm] = {
    "pipeline": "p256",
    "log": "ed25519",
    "witness": "ed25519",
    "officer": "p256",
    "bundle": "p256",
}
"""Maps each role to the algorithm of its keys. The C2SP formats require Ed25519 for checkpoints and cosignatures."""
ANY = "*"
DEMONSTRATION_KEYS = "demonstration keys"
"""Note in every output that depends on a demonstration's trust root."""


@dataclass(frozen=True)
class TrustedKey:
    keyid: str
    public_pem: str
    person: str = ""
    """Name of the person who holds the key. Required for an officer's key; may be empty for other keys."""
    may: tuple[str, ...] = ()
    """Transitions and acts (`waive`, `recall`, `issue`, `review`, `close`) that the officer may decide; `*` means
    all."""
    levels: tuple[str, ...] = ()
    """Classification levels at which the officer may decide; `*` means all."""
    revoked_from: int | None = None
    """First ledger index at which the key's signatures are invalid. None if the key is not revoked."""

    def allows(self, transition: str, level: str) -> bool:
        """Return True if the officer has the permission for a transition or another act at a classification level."""
        return bool({transition, ANY} & {*self.may}) and bool({level, ANY} & {*self.levels})


@dataclass(frozen=True)
class TrustedRole:
    name: str
    threshold: int
    keys: tuple[TrustedKey, ...]
    """The role's keys, including revoked keys, whose earlier signatures are still valid."""
    version: int
    expires: datetime


@dataclass(frozen=True)
class Trust:
    root_sha256: str
    """SHA-256 of the first root's file. An audit starts from this value."""
    root_version: int
    targets_version: int
    is_demonstration: bool
    """True if the keys of this root or an earlier root were created for a demonstration."""
    expires: datetime
    """Earliest expiry of the root, the targets and the roles."""
    roles: Mapping[str, TrustedRole]

    def role(self, role: str) -> TrustedRole:
        if role not in self.roles:
            raise IntegrityError(f"The trust root has no role {role}.", f"The roles are {', '.join(self.roles)}.")
        return self.roles[role]

    def keys(self, role: str) -> tuple[TrustedKey, ...]:
        """Return the role's keys, including revoked keys."""
        return self.role(role).keys

    def key(self, role: str, keyid: str) -> TrustedKey:
        """Return a key of a role. Raises IntegrityError if the key lacks the role."""
        found = next((each for each in self.keys(role) if each.keyid == keyid), None)
        if found is None:
            raise IntegrityError(
                f"The key {keyid} does not have the role {role} in the trust root.",
                "Use a key with this role, or install the newest trust root.",
            )
        return found

    def counts(self, role: str, keyid: str, at_index: int | None) -> bool:
        """Return True if this key has the role and is not revoked at a ledger index.

        Args:
            at_index: ledger index of the signed act. None if the act is not logged yet: any revocation then counts.
        """
        found = next((each for each in self.keys(role) if each.keyid == keyid), None)
        if found is None:
            return False
        return found.revoked_from is None or (at_index is not None and at_index < found.revoked_from)

    def is_revoked_at(self, role: str, keyid: str, index: int) -> bool:
        """Return True if this key has the role and is revoked at this ledger index."""
        return any(each.keyid == keyid for each in self.keys(role)) and not self.counts(role, keyid, index)


Files = Mapping[str, bytes]
"""Mapping of file name to content."""
T = TypeVar("T", Root, Targets)

ROOT, TARGETS = "root.json", "targets.json"
ROOTS = re.compile(r"([1-9][0-9]{0,5})\.root\.json")
LARGEST_FILE = 4 << 20
SPELLING = re.compile(r"[0-9a-f]+")
TIME = "%Y-%m-%dT%H:%M:%SZ"


def root_name(version: int) -> str:
    return f"{version}.{ROOT}"


def read_files(directory: Path) -> dict[str, bytes]:
    """Return the trust root's files in a directory, ignoring other files. Raises IntegrityError if one of them is not a
    regular file or is larger than `LARGEST_FILE` bytes."""
    found: dict[str, bytes] = {}
    for path in sorted(directory.iterdir()):
        if path.name in (ROOT, TARGETS) or ROOTS.fullmatch(path.name):
            if path.is_symlink() or not path.is_file() or path.stat().st_size > LARGEST_FILE:
                raise IntegrityError(f"{path}: this is not a trust root file.", "Copy the trust root again.")
            found[path.name] = path.read_bytes()
    return found


def write_files(directory: Path, files: Files) -> None:
    """Write new and changed files. All content is flushed to disk before the first file is renamed into place."""
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
    return JSONSerializer(compact=False).serialize(metadata) + b"\n"


def metadata_in(content: bytes, kind: type[T], name: str) -> Metadata[T]:
    """Parse a metadata file. Raises IntegrityError unless the file is canonical TUF metadata of this type."""
    try:
        metadata = cast(Metadata[T], Metadata.from_bytes(content))
        spelled = written(metadata)
    except (RepositoryError, ValueError, RecursionError):
        raise InvalidTrustRoot(f"{name}: this is not TUF metadata.") from None
    if not isinstance(metadata.signed, kind):
        raise InvalidTrustRoot(f"{name}: this is not TUF metadata of the type {kind.type}.")
    lowercase = all(SPELLING.fullmatch(each.signature) for each in metadata.signatures.values())
    if spelled != content or not lowercase:
        raise InvalidTrustRoot(f"{name}: the file's bytes are not canonical.")
    return metadata


def dated(text: object, name: str) -> datetime:
    try:
        return datetime.strptime(str(text), TIME).replace(tzinfo=UTC)
    except ValueError:
        raise InvalidTrustRoot(f"{name}: an expiry is not a valid time.") from None


def tuf_key(pem: str, **fields: Any) -> Key:
    """Return a public key as a TUF key with its key id."""
    key = SSlibKey.from_crypto(read_public_key(pem), keyid=keyid_of(pem))
    key.unrecognized_fields.update({name: value for name, value in fields.items() if value not in (None, [], ())})
    return key


def pem_of(keyid: str, key: Key, name: str) -> tuple[str, Algorithm]:
    """Return a key's PEM and algorithm. Raises IntegrityError if the key is neither P-256 nor Ed25519, or if its id is
    not derived from the key."""
    public = key.keyval.get("public")
    try:
        if (key.keytype, key.scheme) == ("ed25519", "ed25519"):
            pem, kind = public_pem_of(ed25519.Ed25519PublicKey.from_public_bytes(bytes.fromhex(str(public)))), "ed25519"
        elif (key.keytype, key.scheme) == ("ecdsa", "ecdsa-sha2-nistp256"):
            pem, kind = public_pem_of(read_public_key(str(public))), "p256"
        else:
            raise ValueError(key.scheme)
    except (ValueError, InputError):
        raise InvalidTrustRoot(f"{name}: the key {keyid} is not a readable P-256 or Ed25519 key.") from None
    if keyid_of(pem) != keyid or {*key.keyval} != {"public"} or tuf_key(pem).keyval["public"] != public:
        raise IntegrityError(
            f"{name}: the key {keyid} has an id that does not belong to it.",
            "One key with two ids would be counted twice. Copy the file again.",
        )
    return pem, cast(Algorithm, kind)


class RootSigner(TufSigner):
    def __init__(self, signer: Signer) -> None:
        self._signer = signer

    @property
    def public_key(self) -> Key:
        return tuf_key(self._signer.public_pem)

    @classmethod
    def from_priv_key_uri(cls, priv_key_uri: str, public_key: Key, secrets_handler: object = None) -> "RootSigner":
        raise NotImplementedError("open a root key with `keys.open_signer`")

    def sign(self, payload: bytes) -> TufSignature:
        return TufSignature(self._signer.keyid, self._signer.sign(payload).hex())


DEMONSTRATION = "demonstration"
"""Field that marks the root of a demonstration. All keys of a demonstration are on the same machine."""
ROOT_VERSION = "root_version"
"""Field in `targets.json`: version of the root whose keys signed this file. If the newest root has a lower
version, an older root was restored."""
KEY_FIELDS = {"person", "may", "levels", "revoked_from"}
ROLE_FIELDS = {"version", "expires"}


def verified(files: Files, root_sha256: str | None = None, where: str = "trust") -> Trust:
    """Verify a trust root's files and return the trust root. Does not check expiry. Raises IntegrityError if a file is
    missing or malformed, if too few keys signed a file, or if the SHA-256 of the first root differs from `root_sha256`.
    Error messages name the file, in the directory `where`."""
    first = files.get(root_name(1))
    if first is None:
        raise IntegrityError(f"{where}/{root_name(1)}: the first root is missing.", "Copy the complete trust root.")
    sha256 = hashlib.sha256(first).hexdigest()
    if root_sha256 is not None and sha256 != root_sha256.lower():
        raise IntegrityError(
            f"{where}/{root_name(1)}: the first root has the SHA-256 {sha256}, not {root_sha256}.",
            "Get the trust root whose SHA-256 you were given, or correct the SHA-256.",
        )
    roots = _verified_roots(files, where)
    targets = _verified_targets(files, roots[-1], where)
    return _trust(sha256, roots, targets, f"{where}/{TARGETS}")


def _verified_roots(files: Files, where: str) -> list[Root]:
    """Verify every root, oldest first. Each root must meet its own threshold and the threshold of the previous root."""
    count = sum(name != ROOT and name.endswith(ROOT) for name in files)
    roots: list[Root] = []
    for version in range(1, count + 1):
        name = f"{where}/{root_name(version)}"
        if root_name(version) not in files:
            raise IntegrityError(f"{name}: this root is missing, but later roots exist.", "Copy all roots.")
        metadata = metadata_in(files[root_name(version)], Root, name)
        root = metadata.signed
        _refuse_foreign_keys(root.keys, name)
        if root.version != version:
            raise IntegrityError(
                f"{name}: this file states root version {root.version}, which its name contradicts.",
                "Copy the complete trust root.",
            )
        result = root.get_root_verification_result(
            roots[-1] if roots else None, metadata.signed_bytes, metadata.signatures
        )
        if not result:
            raise IntegrityError(
                f"{name}: too few root keys signed this root. Signatures by the previous root's keys: "
                f"{len(result.first.signed)}, required: {result.first.threshold}. Signatures by this root's own keys: "
                f"{len(result.second.signed)}, required: {result.second.threshold}.",
                "Get more signatures for this root: enough by the previous root's keys, and enough by its own keys.",
            )
        _refuse_other_signatures(metadata, set(result.signed), name)
        roots.append(root)
    if files.get(ROOT) != files[root_name(count)]:
        raise IntegrityError(
            f"{where}/{ROOT}: this file differs from the newest root, {root_name(count)}.",
            "Copy the complete trust root.",
        )
    return roots


def _verified_targets(files: Files, root: Root, where: str) -> Targets:
    name = f"{where}/{TARGETS}"
    if TARGETS not in files:
        raise IntegrityError(f"{name}: the file is missing.", "Copy the complete trust root.")
    metadata = metadata_in(files[TARGETS], Targets, name)
    result = root.get_verification_result(Targets.type, metadata.signed_bytes, metadata.signatures)
    if not result:
        raise IntegrityError(
            f"{name}: {len(result.signed)} of the {result.threshold} required keys of root {root.version} signed this "
            f"file.",
            "Have the root keys' holders sign it again on the offline machine.",
        )
    _refuse_other_signatures(metadata, set(result.signed), name)
    made_under = metadata.signed.unrecognized_fields.get(ROOT_VERSION)
    if not isinstance(made_under, int) or made_under > root.version:
        raise IntegrityError(
            f"{name}: this file was signed under root {made_under}, but the newest root here is {root.version}.",
            "An older root was restored. Copy the newest root again.",
        )
    return metadata.signed


def _refuse_other_signatures(metadata: Metadata[Any], good: set[str], name: str) -> None:
    """Raise IntegrityError if the metadata has a signature by a key that is not in `good`, the set of keys whose
    signatures are valid."""
    if other := sorted(set(metadata.signatures) - good):
        raise InvalidTrustRoot(f"{name}: the signature by key {other[0]} is invalid.")


def _refuse_foreign_keys(keys: Mapping[str, TufKey], name: str) -> None:
    """Raise IntegrityError for a key whose id is not derived from the key: a key with two ids would count twice."""
    for keyid, key in keys.items():
        pem_of(keyid, key, name)


def _trust(sha256: str, roots: list[Root], targets: Targets, name: str) -> Trust:
    delegations = targets.delegations
    delegated = delegations.roles if delegations is not None else None
    if delegations is None or delegated is None or {*delegated} != {*ROLES}:
        raise IntegrityError(f"{name}: the roles are not exactly {', '.join(ROLES)}.", "Use the release that wrote it.")
    _refuse_foreign_keys(delegations.keys, name)
    roles: dict[str, TrustedRole] = {}
    held = dict.fromkeys(roots[-1].keys, "root")
    for role, algorithm in ROLES.items():
        fields = delegated[role].unrecognized_fields
        if {*fields} != ROLE_FIELDS or not isinstance(fields["version"], int):
            raise IntegrityError(
                f"{name}: role {role} has no valid version and expiry.", "Use the release that wrote the file."
            )
        keys = []
        for keyid in delegated[role].keyids:
            if keyid not in delegations.keys:
                raise InvalidTrustRoot(f"{name}: the key {keyid} of role {role} is missing.")
            if keyid in held:
                raise IntegrityError(
                    f"{name}: the key {keyid} has two roles, {held[keyid]} and {role}.", "Give each role its own key."
                )
            held[keyid] = role
            keys.append(_trusted_key(delegations.keys[keyid], role, algorithm, name))
        version, expires = fields["version"], dated(fields["expires"], name)
        roles[role] = TrustedRole(role, delegated[role].threshold, tuple(keys), version, expires)
    if unused := {*delegations.keys} - {*held}:
        raise InvalidTrustRoot(f"{name}: the key {min(unused)} has no role.")
    return Trust(
        root_sha256=sha256,
        root_version=roots[-1].version,
        targets_version=targets.version,
        is_demonstration=any(root.unrecognized_fields.get(DEMONSTRATION) is True for root in roots),
        expires=min(roots[-1].expires, targets.expires, *(role.expires for role in roles.values())),
        roles=roles,
    )


def _trusted_key(key: TufKey, role: str, algorithm: Algorithm, name: str) -> TrustedKey:
    pem, kind = pem_of(key.keyid, key, name)
    if kind != algorithm:
        raise InvalidTrustRoot(f"{name}: the key {key.keyid} of role {role} is not of the type {algorithm}.")
    fields = key.unrecognized_fields
    if unknown := {*fields} - KEY_FIELDS:
        raise IntegrityError(
            f"{name}: the key {key.keyid} has a field that this release does not know: {min(unknown)}.",
            "Use the release that wrote the file.",
        )
    person, revoked_from = fields.get("person"), fields.get("revoked_from")
    may, levels = fields.get("may", []), fields.get("levels", [])
    well_formed = (
        (person is None or (isinstance(person, str) and person.isprintable() and person.strip() == person != ""))
        and (revoked_from is None or (type(revoked_from) is int and revoked_from >= 0))
        and all(
            isinstance(each, list) and all(isinstance(word, str) and word.isprintable() for word in each)
            for each in (may, levels)
        )
        and (role != "officer" or (person is not None and bool(may) and bool(levels)))
    )
    if not well_formed:
        raise InvalidTrustRoot(f"{name}: the fields of the key {key.keyid} of role {role} are incomplete or malformed.")
    return TrustedKey(key.keyid, pem, person or "", tuple(may), tuple(levels), revoked_from)


def load_trust(
    directory: Path,
    root_sha256: str | None = None,
    *,
    now: datetime | None = None,
    at_least: tuple[int, int] = (1, 1),
) -> Trust:
    """Read and verify a trust root. Raises NotFoundError if there is no trust root. Raises IntegrityError if the trust
    root is expired, too old or invalid; the error names an invalid file.

    Args:
        root_sha256: expected SHA-256 of the first root's file; None accepts any first root.
        now: time at which the trust root must be valid; None for the current time. To verify a past act, pass the act's
            time.
        at_least: versions of root and targets that were installed before. Older versions are rejected.
    """

    if not directory.is_dir():
        raise NotFoundError(
            f"{directory}: there is no trust root.", act="make_trust_root", trust=str(directory), keys="KEYS"
        )
    trust = verified(read_files(directory), root_sha256, str(directory))
    refuse_expired(trust, now or datetime.now(UTC), str(directory))
    seen = (trust.root_version, trust.targets_version)
    if seen[0] < at_least[0] or seen[1] < at_least[1]:
        raise IntegrityError(
            f"{directory}: root {seen[0]} and targets {seen[1]} are older than root {at_least[0]} and targets "
            f"{at_least[1]}, which were installed before.",
            "An older trust root was restored. Copy the newest trust root again.",
        )
    return trust


def refuse_expired(trust: Trust, now: datetime, where: str) -> None:
    if now >= trust.expires:
        late = [role.name for role in trust.roles.values() if now >= role.expires]
        of = f" (roles {', '.join(late)})" if late else ""
        raise IntegrityError(
            f"{where}: the trust root{of} expired on {trust.expires:%Y-%m-%d}.",
            "Have the root keys' holders sign it again on the offline machine.",
        )
