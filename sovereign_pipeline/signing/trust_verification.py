"""Verifying the files of a trust root, each by the keys that the one before it names.

TUF's library is loaded with this module, which is imported where a trust root is read. What belongs here: what must
hold for the files, at whatever time. What does not: expiry and versions seen before (`trust.py`), the files' bytes
(`trust_files.py`).
"""

import hashlib
from collections.abc import Mapping
from typing import Any

from tuf.api.metadata import Key, Metadata, Root, Targets

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.signing.keys import Algorithm
from sovereign_pipeline.signing.trust_files import ROOT, TARGETS, Files, dated, metadata_in, pem_of, root_name
from sovereign_pipeline.signing.trusted import ROLES, Trust, TrustedKey, TrustedRole

DEMONSTRATION = "demonstration"
"""The mark in a root whose keys lie beside what they sign."""
ROOT_VERSION = "root_version"
"""In `targets.json`: the root under which it was made, so that the root alone cannot be put back."""
KEY_FIELDS = {"person", "may", "levels", "revoked_from"}
ROLE_FIELDS = {"version", "expires"}


def verified(files: Files, root_sha256: str | None = None, where: str = "trust") -> Trust:
    """The trust root in these files, at whatever time. Raises IntegrityError naming the file that does not verify."""
    first = files.get(root_name(1))
    if first is None:
        raise IntegrityError(f"{where}/{root_name(1)}: the first root is missing.", "Take the trust root whole.")
    sha256 = hashlib.sha256(first).hexdigest()
    if root_sha256 is not None and sha256 != root_sha256.lower():
        raise IntegrityError(
            f"{where}/{root_name(1)}: the first root has the SHA-256 {sha256}, not {root_sha256}.",
            "It is another trust root than the one that was named to you.",
        )
    roots = _verified_roots(files, where)
    targets = _verified_targets(files, roots[-1], where)
    return _trust(sha256, roots, targets, f"{where}/{TARGETS}")


def _verified_roots(files: Files, where: str) -> list[Root]:
    """Every root, from the first: each by its own threshold and by that of the one before."""
    count = sum(name != ROOT and name.endswith(ROOT) for name in files)
    roots: list[Root] = []
    for version in range(1, count + 1):
        name = f"{where}/{root_name(version)}"
        if root_name(version) not in files:
            raise IntegrityError(f"{name}: this root is missing, and later ones are there.", "Take all of them.")
        metadata = metadata_in(files[root_name(version)], Root, name)
        root = metadata.signed
        _refuse_foreign_keys(root.keys, name)
        if root.version != version:
            raise IntegrityError(f"{name}: it says that it is version {root.version}.", "Take the trust root whole.")
        result = root.get_root_verification_result(
            roots[-1] if roots else None, metadata.signed_bytes, metadata.signatures
        )
        if not result:
            raise IntegrityError(
                f"{name}: too few root keys signed it. Of the root before: {len(result.first.signed)} of "
                f"{result.first.threshold}; of its own: {len(result.second.signed)} of {result.second.threshold}.",
                "A new root needs the old keys and the new ones.",
            )
        _refuse_other_signatures(metadata, set(result.signed), name)
        roots.append(root)
    if files.get(ROOT) != files[root_name(count)]:
        raise IntegrityError(
            f"{where}/{ROOT}: it is not the newest root, {root_name(count)}.", "Take the trust root whole."
        )
    return roots


def _verified_targets(files: Files, root: Root, where: str) -> Targets:
    name = f"{where}/{TARGETS}"
    if TARGETS not in files:
        raise IntegrityError(f"{name}: the file is missing.", "Take the trust root whole.")
    metadata = metadata_in(files[TARGETS], Targets, name)
    result = root.get_verification_result(Targets.type, metadata.signed_bytes, metadata.signatures)
    if not result:
        raise IntegrityError(
            f"{name}: {len(result.signed)} of {result.threshold} keys of root {root.version} signed it.",
            "Its holders sign it anew, on the offline machine.",
        )
    _refuse_other_signatures(metadata, set(result.signed), name)
    made_under = metadata.signed.unrecognized_fields.get(ROOT_VERSION)
    if not isinstance(made_under, int) or made_under > root.version:
        raise IntegrityError(
            f"{name}: it was made under root {made_under}, and the newest here is {root.version}.",
            "Somebody put an older root back: take the newest one again.",
        )
    return metadata.signed


def _refuse_other_signatures(metadata: Metadata[Any], good: set[str], name: str) -> None:
    """A signature beyond the threshold is held to the same: no byte of the file may be anything."""
    if other := sorted(set(metadata.signatures) - good):
        raise IntegrityError(f"{name}: the signature of {other[0]} is not one.", "Take the file again.")


def _refuse_foreign_keys(keys: Mapping[str, Key], name: str) -> None:
    """A key under an id that is not its own could stand under two, and be counted twice."""
    for keyid, key in keys.items():
        pem_of(keyid, key, name)


def _trust(sha256: str, roots: list[Root], targets: Targets, name: str) -> Trust:
    delegations = targets.delegations
    delegated = delegations.roles if delegations is not None else None
    if delegations is None or delegated is None or {*delegated} != {*ROLES}:
        raise IntegrityError(f"{name}: its roles are not {', '.join(ROLES)}.", "It belongs to another release.")
    _refuse_foreign_keys(delegations.keys, name)
    roles: dict[str, TrustedRole] = {}
    held = dict.fromkeys(roots[-1].keys, "root")
    for role, algorithm in ROLES.items():
        fields = delegated[role].unrecognized_fields
        if {*fields} != ROLE_FIELDS or not isinstance(fields["version"], int):
            raise IntegrityError(f"{name}: role {role} has no version and expiry.", "It belongs to another release.")
        keys = []
        for keyid in delegated[role].keyids:
            if keyid not in delegations.keys:
                raise IntegrityError(f"{name}: the key {keyid} of role {role} is missing.", "Take the file again.")
            if keyid in held:
                raise IntegrityError(
                    f"{name}: the key {keyid} has two roles, {held[keyid]} and {role}.", "A key has one role."
                )
            held[keyid] = role
            keys.append(_trusted_key(delegations.keys[keyid], role, algorithm, name))
        version, expires = fields["version"], dated(fields["expires"], name)
        roles[role] = TrustedRole(role, delegated[role].threshold, tuple(keys), version, expires)
    if unused := {*delegations.keys} - {*held}:
        raise IntegrityError(f"{name}: the key {min(unused)} has no role.", "Take the file again.")
    return Trust(
        root_sha256=sha256,
        root_version=roots[-1].version,
        targets_version=targets.version,
        is_demonstration=any(root.unrecognized_fields.get(DEMONSTRATION) is True for root in roots),
        expires=min(roots[-1].expires, targets.expires, *(role.expires for role in roles.values())),
        roles=roles,
    )


def _trusted_key(key: Key, role: str, algorithm: Algorithm, name: str) -> TrustedKey:
    pem, kind = pem_of(key.keyid, key, name)
    if kind != algorithm:
        raise IntegrityError(
            f"{name}: the key {key.keyid} of role {role} is not of the kind {algorithm}.", "Take the file again."
        )
    fields = key.unrecognized_fields
    if unknown := {*fields} - KEY_FIELDS:
        raise IntegrityError(
            f"{name}: the key {key.keyid} has the field {min(unknown)}, which is unknown here.",
            "It belongs to another release.",
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
        raise IntegrityError(
            f"{name}: what is said about the key {key.keyid} of role {role} is not whole.", "Take the file again."
        )
    return TrustedKey(key.keyid, pem, person, tuple(may), tuple(levels), revoked_from)
