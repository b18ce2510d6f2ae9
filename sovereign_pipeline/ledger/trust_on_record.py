"""Under which trust root officers ask and decide: the one on record, and no older one.

What belongs here: comparing the trust root that was read with that on record, in the transaction of the act. What does
not: putting it on record (`in_force.py`).
"""

from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import ConflictError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.ledger.in_force import assert_same_trust, put_on_record, trust_files, trust_on_record
from sovereign_pipeline.signing.trust import Trust


def assert_in_force(session: Session, settings: Settings, trust: Trust) -> None:
    """Put on record what changed, and assert that the trust root that was read is the one that is on record now.

    Raises IntegrityError for another trust root or an older one, and ConflictError where it was changed meanwhile.
    """
    put_on_record(session, settings)
    known = trust_on_record(session)
    read = (trust.root_sha256, trust.root_version, trust.targets_version)
    if known is None or (known.root_sha256, known.root_version, known.targets_version) != read:
        raise ConflictError("The trust root was changed while this was done.", "Do it again.")


def assert_not_put_back(session: Session, settings: Settings, trust: Trust) -> None:
    """Assert, without an act, that a trust root that was read is the one on record or follows it.

    Raises IntegrityError for another one, an older one, and one that was changed beside it.
    """
    known = trust_on_record(session)
    if known is not None:
        assert_same_trust(known, trust, trust_files(settings))
