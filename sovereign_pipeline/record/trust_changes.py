"""Create and change a trust root, and create a trust root for demonstrations."""

import unicodedata
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from tuf.api.metadata import DelegatedRole, Delegations, Metadata, Root, Targets

from sovereign_pipeline.base.errors import ConflictError, InputError, NotFoundError
from sovereign_pipeline.base.text import compared_as
from sovereign_pipeline.record import trust_root
from sovereign_pipeline.record.keys import FileSigner, Signer, algorithm_of, generate, keyid_of, read_key, write_key
from sovereign_pipeline.record.trust_root import ANY, ROLES, TARGETS

ROOT_DAYS = 1825
"""Validity of a root, in days."""
TARGETS_DAYS = 400
"""Validity of roles and keys, in days: more than a year, so that a yearly renewal is never late."""
ROOT_KEYS, ROOT_THRESHOLD = 3, 2


def create_trust(
    directory: Path,
    roots: Sequence[Signer],
    keys: Mapping[str, Iterable[str]],
    *,
    threshold: int = ROOT_THRESHOLD,
    now: datetime | None = None,
    demonstration: bool = False,
) -> trust_root.Trust:
    """Create a trust root. Add officers afterwards with `add_officer`. Raises ConflictError if the directory is not
    empty or a key is listed twice, and InputError for a key of the wrong type or an impossible threshold.

    Args:
        roots: the root keys, which sign the trust root.
        keys: public keys (PEM) of each role.
        threshold: number of root keys that must sign a change.
    """
    refuse_full(directory)
    moment = now or datetime.now(UTC)
    root = _root(roots, threshold, 1, moment, demonstration)
    roles = {
        role: DelegatedRole(role, [], 1, True, paths=[f"{role}/*"], unrecognized_fields={"version": 1})
        for role in ROLES
    }
    targets = Targets(
        version=1,
        expires=_later(moment, TARGETS_DAYS),
        delegations=Delegations({}, roles),
        unrecognized_fields={trust_root.ROOT_VERSION: 1},
    )
    for role, pems in keys.items():
        for pem in pems:
            _add_key(targets, root, role, pem)
    for each in roles.values():
        each.unrecognized_fields["expires"] = targets.expires.strftime(trust_root.TIME)
    content = _signed(root, roots)
    return _write(
        directory, {trust_root.ROOT: content, trust_root.root_name(1): content, TARGETS: _signed(targets, roots)}
    )


def add_key(
    directory: Path, role: str, pem: str, signers: Sequence[Signer], *, now: datetime | None = None
) -> trust_root.Trust:
    """Add a key to a role other than `officer`. Raises InputError if the role or the key's type is wrong, and
    ConflictError if the key already has a role."""
    if role == "officer":
        raise InputError(
            "An officer's key needs a person and the acts that the person may approve.", "Use `add-officer`."
        )
    return _change_targets(directory, signers, [role], lambda targets, root: _add_key(targets, root, role, pem), now)


def add_officer(
    directory: Path,
    pem: str,
    person: str,
    may: Sequence[str],
    levels: Sequence[str],
    signers: Sequence[Signer],
    *,
    now: datetime | None = None,
) -> trust_root.Trust:
    """Add a person's key to the role `officer`. Raises ConflictError if the key already has a role, or if the name of
    another officer looks like this name.

    Args:
        may: transitions and other acts that the person may approve; `*` means all.
        levels: classification levels at which the person may approve; `*` means all.
    """
    person = " ".join(each for each in unicodedata.normalize("NFC", person).split(" ") if each)
    if not person or not person.isprintable():
        raise InputError("An officer needs a name in printable characters.", "Give the person's name.")
    for what, words in (("transition", may), ("classification level", levels)):
        if not words or not all(word and word.strip() == word and word.isprintable() for word in words):
            raise InputError(
                f"An officer needs at least one {what}, in printable characters.", f"List them, or use {ANY} for all."
            )

    def change(targets: Targets, root: Root) -> None:
        _refuse_second_spelling(targets, person)
        fields = {"person": person, "may": [*dict.fromkeys(may)], "levels": [*dict.fromkeys(levels)]}
        _add_key(targets, root, "officer", pem, **fields)

    return _change_targets(directory, signers, ["officer"], change, now)


def revoke(
    directory: Path, keyid: str, from_index: int, signers: Sequence[Signer], *, now: datetime | None = None
) -> trust_root.Trust:
    """Revoke a key. Its signatures become invalid at the ledger index `from_index` and later. Earlier signatures stay
    valid. Raises ConflictError if the key is already revoked from an earlier index on."""
    role = _role_of(read_trust(directory), keyid)
    return _change_targets(directory, signers, [role], lambda targets, root: _revoke(targets, keyid, from_index), now)


def rotate_key(
    directory: Path, role: str, pem: str, from_index: int, signers: Sequence[Signer], *, now: datetime | None = None
) -> trust_root.Trust:
    """Add a new key to a role, and revoke the role's other keys from the ledger index `from_index` on. For officers,
    add the new key with `add_officer` and revoke the old one."""
    if role == "officer":
        raise InputError("An officer's key cannot be rotated.", "Add the new key, and revoke the old one.")
    old = [key.keyid for key in read_trust(directory).keys(role) if key.revoked_from is None]

    def change(targets: Targets, root: Root) -> None:
        _add_key(targets, root, role, pem)
        for keyid in old:
            _revoke(targets, keyid, from_index)

    return _change_targets(directory, signers, [role], change, now)


def rotate_root(
    directory: Path,
    new: Sequence[Signer],
    old: Sequence[Signer],
    *,
    threshold: int = ROOT_THRESHOLD,
    now: datetime | None = None,
) -> trust_root.Trust:
    """Replace the root keys. Old and new keys sign the new root. The files of the old roots stay in the directory."""
    before = read_trust(directory)
    root = _root(new, threshold, before.root_version + 1, now or datetime.now(UTC), before.is_demonstration)
    both = {signer.keyid: signer for signer in (*old, *new)}
    return _write_root(directory, root, list(both.values()), new, now)


def renew(directory: Path, signers: Sequence[Signer], *, now: datetime | None = None) -> trust_root.Trust:
    before = read_trust(directory)
    content = trust_root.read_files(directory)[trust_root.ROOT]
    root = trust_root.metadata_in(content, Root, trust_root.ROOT).signed
    _refuse_strangers(root, signers)
    root.version = before.root_version + 1
    root.expires = _later(now or datetime.now(UTC), ROOT_DAYS)
    return _write_root(directory, root, signers, signers, now)


def install(source: Path, directory: Path, *, now: datetime | None = None) -> trust_root.Trust:
    """Install a trust root that was changed on the offline machine. Raises IntegrityError if the new trust root is
    invalid, older than the installed trust root or unrelated to it. Raises ConflictError if a file differs from the
    installed file of the same version."""
    new = trust_root.load_trust(source, now=now)
    files = trust_root.read_files(source)
    if directory.is_dir() and (here := trust_root.read_files(directory)):
        before = trust_root.verified(here, where=str(directory))
        new = trust_root.load_trust(
            source, before.root_sha256, now=now, at_least=(before.root_version, before.targets_version)
        )
        for name in here:
            if name not in (trust_root.ROOT, TARGETS) and files.get(name) != here[name]:
                raise ConflictError(
                    f"{source}/{name}: this file differs from the same file in {directory}.",
                    "Ask the root keys' holders which file is right.",
                )
        if new.targets_version == before.targets_version and files[TARGETS] != here[TARGETS]:
            raise ConflictError(
                f"{source}/{TARGETS}: {directory} has the same version {new.targets_version} with different content.",
                "Two changes were made in parallel. Repeat the second change on a copy of the installed trust root.",
            )
    trust_root.write_files(directory, files)
    return new


def refuse_full(directory: Path) -> None:
    """Raise ConflictError if the directory is not empty. A trust root is created only once."""
    if directory.exists() and any(directory.iterdir()):
        raise ConflictError(f"{directory}: the directory is not empty.", "Choose an empty directory.")


def read_trust(directory: Path) -> trust_root.Trust:
    """Read and verify a trust root in order to change it. Accepts an expired trust root, so that it can be renewed.
    Raises NotFoundError if the directory is missing, and IntegrityError if a file is invalid."""
    if not directory.is_dir():
        raise NotFoundError(f"{directory}: there is no trust root.", act="make_trust_root")
    return trust_root.verified(trust_root.read_files(directory), where=str(directory))


def _change_targets(
    directory: Path,
    signers: Sequence[Signer],
    roles: Collection[str],
    change: Callable[[Targets, Root], None],
    now: datetime | None,
) -> trust_root.Trust:
    read_trust(directory)
    files = trust_root.read_files(directory)
    root = trust_root.metadata_in(files[trust_root.ROOT], Root, trust_root.ROOT).signed
    _refuse_strangers(root, signers)
    targets = _current(files, directory)
    change(targets, root)
    _renew(targets, roles, now or datetime.now(UTC))
    return _write(directory, {**files, TARGETS: _signed(targets, signers)})


def _write_root(
    directory: Path, root: Root, signers: Sequence[Signer], of_targets: Sequence[Signer], now: datetime | None
) -> trust_root.Trust:
    """Extend the validity of all roles, then sign and write the new root and the targets."""
    files = trust_root.read_files(directory)
    targets = _current(files, directory)
    _renew(targets, ROLES, now or datetime.now(UTC))
    targets.unrecognized_fields[trust_root.ROOT_VERSION] = root.version
    content = _signed(root, signers)
    changed = {name: content for name in (trust_root.ROOT, trust_root.root_name(root.version))}
    return _write(directory, {**files, **changed, trust_root.TARGETS: _signed(targets, of_targets)})


def _root(signers: Sequence[Signer], threshold: int, version: int, now: datetime, demonstration: bool) -> Root:
    if len({signer.keyid for signer in signers}) != len(signers):
        raise InputError("A root key is given twice.", "Give different keys.")
    if not 1 <= threshold <= len(signers):
        raise InputError(
            f"{threshold} of {len(signers)} root keys is not a valid threshold.",
            "The threshold must be from 1 to the number of keys.",
        )
    root = Root(
        version=version,
        expires=_later(now, ROOT_DAYS),
        consistent_snapshot=False,
        unrecognized_fields={trust_root.DEMONSTRATION: True} if demonstration else {},
    )
    for signer in signers:
        if algorithm_of(signer.public_pem) != "p256":
            raise InputError("A root key must be P-256.", "Generate another key.")
        for role in (Root.type, Targets.type):
            root.add_key(trust_root.tuf_key(signer.public_pem), role)
    for role in (Root.type, Targets.type):
        root.roles[role].threshold = threshold
    return root


def _current(files: trust_root.Files, directory: Path) -> Targets:
    return trust_root.metadata_in(files[TARGETS], Targets, f"{directory}/{TARGETS}").signed


def _delegations(targets: Targets) -> tuple[dict[str, Any], dict[str, DelegatedRole]]:
    assert targets.delegations is not None and targets.delegations.roles is not None, "verified before"
    return targets.delegations.keys, targets.delegations.roles


def _add_key(targets: Targets, root: Root, role: str, pem: str, **fields: Any) -> None:
    keys, roles = _delegations(targets)
    if role not in ROLES:
        raise InputError(f"The role {role} does not exist.", f"The roles are {', '.join(ROLES)}.")
    if algorithm_of(pem) != ROLES[role]:
        raise InputError(f"A key of the role {role} must be of the type {ROLES[role]}.", "Generate a key of that type.")
    keyid = keyid_of(pem)
    if keyid in keys or keyid in root.keys:
        holder = next((name for name, each in roles.items() if keyid in each.keyids), "root")
        raise ConflictError(f"The key {keyid} already has the role {holder}.", "Use another key for the second role.")
    keys[keyid] = trust_root.tuf_key(pem, **fields)
    roles[role].keyids.append(keyid)


def _refuse_second_spelling(targets: Targets, person: str) -> None:
    """Raise ConflictError if a listed officer's name looks like `person` but is spelled differently. Approvals are
    counted by person, so a person with two spellings would count twice."""
    for key in _delegations(targets)[0].values():
        other = key.unrecognized_fields.get("person")
        if other is not None and other != person and _looks(other) & _looks(person):
            raise ConflictError(
                f"An officer is already listed as {other}, a name that looks like {person}.",
                "Use one spelling for each person. Distinguish two people with the same name by their office.",
            )


def _looks(name: str) -> set[str]:
    """Return two normalised forms of a name. They ignore case, spaces and combining marks, and map confusable letters
    to one letter. The second form also maps I, 1 and | to l, and 0 to o."""
    spellings = (unicodedata.normalize("NFKC", each) for each in (name, name.translate(_READ_AS)))
    return {
        "".join("".join(map(compared_as, "".join(map(compared_as, each)).casefold())).split()) for each in spellings
    }


_READ_AS = str.maketrans("I1|0", "lllo")


def _revoke(targets: Targets, keyid: str, from_index: int) -> None:
    if from_index < 0:
        raise InputError("A log index must be 0 or more.", "Give the index of the first entry that is no longer valid.")
    fields = _delegations(targets)[0][keyid].unrecognized_fields
    before = fields.get("revoked_from")
    if before is not None and from_index > before:
        raise ConflictError(
            f"The key {keyid} is already revoked from index {before} on.", "Give an earlier index, not a later one."
        )
    fields["revoked_from"] = from_index


def _role_of(trust: trust_root.Trust, keyid: str) -> str:
    for role in trust.roles.values():
        if any(key.keyid == keyid for key in role.keys):
            return role.name
    raise NotFoundError(f"The trust root has no key {keyid}.", "Give the complete key id.")


def _refuse_strangers(root: Root, signers: Sequence[Signer]) -> None:
    """Raise InputError if a signer's key is not a root key, or if there are fewer signers than the threshold."""
    ids = {signer.keyid for signer in signers}
    if strangers := sorted(ids - {*root.roles[Targets.type].keyids}):
        raise InputError(f"The key {strangers[0]} is not a root key of this trust root.", "Use one of its root keys.")
    if len(ids) < root.roles[Targets.type].threshold:
        raise InputError(
            f"{len(ids)} root keys were given, but {root.roles[Targets.type].threshold} are needed.",
            "Give more root keys.",
        )


def _renew(targets: Targets, roles: Collection[str], now: datetime) -> None:
    targets.version += 1
    targets.expires = _later(now, TARGETS_DAYS)
    for name, role in _delegations(targets)[1].items():
        role.unrecognized_fields["expires"] = targets.expires.strftime(trust_root.TIME)
        role.unrecognized_fields["version"] += name in roles


def _later(now: datetime, days: int) -> datetime:
    return now.replace(microsecond=0) + timedelta(days=days)


def _signed(content: Root | Targets, signers: Sequence[Signer]) -> bytes:
    metadata: Metadata[Any] = Metadata(content)
    for signer in signers:
        metadata.sign(trust_root.RootSigner(signer), append=True)
    return trust_root.written(metadata)


def _write(directory: Path, files: trust_root.Files) -> trust_root.Trust:
    """Verify the files before writing them, so that only a valid trust root is written."""
    trust = trust_root.verified(files, where=str(directory))
    trust_root.write_files(directory, files)
    return trust


OFFICERS = 3
"""Number of demonstration officers: enough for a request, two approvals and a rejection."""
NO_KEYS: Mapping[str, Sequence[str]] = {}


def demonstration_trust(
    directory: Path,
    keys_directory: Path,
    others: Mapping[str, Sequence[str]] = NO_KEYS,
    *,
    now: datetime | None = None,
) -> trust_root.Trust:
    """Create a trust root for demonstrations with its keys: `root-1.key`, `pipeline.key`, `officer-1.key`, and so on.
    Keeps an existing trust root and existing keys.

    Args:
        others: additional public keys (PEM) of each role, such as those of the log and its witnesses.
    """
    if directory.is_dir() and any(directory.iterdir()):
        return trust_root.load_trust(directory, now=now)
    roots = [_key(keys_directory / f"root-{number + 1}.key") for number in range(ROOT_KEYS)]
    of_services = {role: [_key(keys_directory / f"{role}.key").public_pem] for role in ("pipeline", "bundle")}
    officers = [_key(keys_directory / f"officer-{number + 1}.key") for number in range(OFFICERS)]
    partial = directory.with_name(f".{directory.name}.new")
    for left in partial.iterdir() if partial.is_dir() else ():
        left.unlink()
    create_trust(partial, roots, {**of_services, **others}, now=now, demonstration=True)
    signers = roots[:ROOT_THRESHOLD]
    for number, officer in enumerate(officers, start=1):
        add_officer(partial, officer.public_pem, f"Demonstration Officer {number}", [ANY], [ANY], signers, now=now)
    partial.replace(directory)
    return trust_root.load_trust(directory, now=now)


def _key(path: Path) -> FileSigner:
    if not path.exists():
        write_key(path, generate(), None)
    return read_key(path, lambda: "")
