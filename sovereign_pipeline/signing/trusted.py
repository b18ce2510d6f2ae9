"""What a verified trust root says: whose key counts for what.

What belongs here: these values. What does not: reading them (`trust.py`), which needs a library.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.signing.keys import Algorithm

ROLES: Mapping[str, Algorithm] = {
    "pipeline": "p256",
    "log": "ed25519",
    "witness": "ed25519",
    "officer": "p256",
    "bundle": "p256",
}
"""Role -> the kind of its keys. Checkpoints of the log and their cosignatures are Ed25519, as their format has it."""
ANY = "*"
DEMONSTRATION_KEYS = "demonstration keys"
"""What every output says that rests on a root that the demonstration made."""


@dataclass(frozen=True)
class TrustedKey:
    """A public key in a role."""

    keyid: str
    public_pem: str
    person: str | None = None
    """Whose key it is; of every officer's."""
    may: tuple[str, ...] = ()
    """The transitions that this officer may decide about, and other acts (`waive`, `recall`, `issue`, `review`,
    `close`); `*` is every one."""
    levels: tuple[str, ...] = ()
    """The classification levels at which; `*` is every one."""
    revoked_from: int | None = None
    """The index of the log from which on nothing counts that is signed with this key."""

    def allows(self, transition: str, level: str) -> bool:
        """Whether this officer may approve a transition at a level."""
        return bool({transition, ANY} & {*self.may}) and bool({level, ANY} & {*self.levels})


@dataclass(frozen=True)
class TrustedRole:
    """Who may sign what belongs to a role."""

    name: str
    threshold: int
    keys: tuple[TrustedKey, ...]
    """Those that were revoked stay: what they signed before still counts."""
    version: int
    expires: datetime


@dataclass(frozen=True)
class Trust:
    """A verified trust root."""

    root_sha256: str
    """Of the first root's file: what an auditor starts from."""
    root_version: int
    targets_version: int
    is_demonstration: bool
    """Whether its keys, or those of an earlier root, are the ones that the demonstration makes."""
    expires: datetime
    """The first moment at which a part of it is no longer accepted."""
    roles: Mapping[str, TrustedRole]

    def role(self, role: str) -> TrustedRole:
        if role not in self.roles:
            raise IntegrityError(f"The trust root knows no role {role}.", f"The roles are {', '.join(self.roles)}.")
        return self.roles[role]

    def keys(self, role: str) -> tuple[TrustedKey, ...]:
        """The role's keys, those that were revoked among them."""
        return self.role(role).keys

    def key(self, role: str, keyid: str) -> TrustedKey:
        """Raises IntegrityError for a key that has not this role."""
        found = next((each for each in self.keys(role) if each.keyid == keyid), None)
        if found is None:
            raise IntegrityError(
                f"The key {keyid} has not the role {role} in the trust root.",
                "Whoever signed must be one of this role, or the trust root here is not the newest.",
            )
        return found

    def counts(self, role: str, keyid: str, at_index: int | None) -> bool:
        """Whether what this key signed counts at an index of the log; None asks for what is yet to be entered."""
        found = next((each for each in self.keys(role) if each.keyid == keyid), None)
        if found is None:
            return False
        return found.revoked_from is None or (at_index is not None and at_index < found.revoked_from)
