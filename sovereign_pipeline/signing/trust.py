"""The trust root: whose key counts for what, as TUF metadata that the holders of the root keys signed.

`data/trust/` holds every version of the root (`1.root.json`, `2.root.json`, …), the newest once more as `root.json`,
and `targets.json`, whose delegated roles are `ROLES`. An auditor starts from the SHA-256 of `1.root.json`: each later
root is signed by the keys of the one before and by its own, and `targets.json` by keys that the newest root names.

What belongs here: reading it, as it may be relied on now. What does not: how it is verified
(`trust_verification.py`), what it says (`trusted.py`), and making and changing it (`trust_changes.py`).
"""

from datetime import UTC, datetime
from pathlib import Path

from sovereign_pipeline.base.errors import IntegrityError, NotFoundError
from sovereign_pipeline.signing.trusted import Trust as Trust
from sovereign_pipeline.signing.trusted import TrustedKey as TrustedKey


def load_trust(
    directory: Path,
    root_sha256: str | None = None,
    *,
    now: datetime | None = None,
    at_least: tuple[int, int] = (1, 1),
) -> Trust:
    """Read and verify a trust root.

    Args:
        root_sha256: what the first root's file must be; None takes the directory's word for it.
        now: the moment at which it must not have expired. Whoever verifies what is long past gives the moment of then.
        at_least: the versions of root and targets seen before, from which nothing goes back.

    Raises IntegrityError naming the file for whatever does not verify, NotFoundError where there is no trust root.
    """
    from sovereign_pipeline.signing.trust_files import read_files
    from sovereign_pipeline.signing.trust_verification import verified

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
            f"{at_least[1]}, which were in force before.",
            "Somebody put an older trust root back: take the newest one again.",
        )
    return trust


def refuse_expired(trust: Trust, now: datetime, where: str) -> None:
    """Raise IntegrityError for a trust root that has expired."""
    if now >= trust.expires:
        late = [role.name for role in trust.roles.values() if now >= role.expires]
        of = f" (roles {', '.join(late)})" if late else ""
        raise IntegrityError(
            f"{where}: the trust root{of} expired on {trust.expires:%Y-%m-%d}.",
            "Its holders sign it anew, on the offline machine.",
        )
