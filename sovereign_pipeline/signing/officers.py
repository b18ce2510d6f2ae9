"""The institution's trust root on this machine, the pipeline's key, and the officer behind a key.

What belongs here: where these lie, whose a key is, and whether an act counts that an officer signed. What does not:
reading a trust root (`trust.py`), and what officers act on.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from sovereign_pipeline.errors import IntegrityError, SignInError
from sovereign_pipeline.settings import Settings
from sovereign_pipeline.signing.keys import Signer, read_key
from sovereign_pipeline.signing.statements import Verified, verify_statement
from sovereign_pipeline.signing.trust import Trust, TrustedKey, load_trust

OFFICER, PIPELINE = "officer", "pipeline"
PIPELINE_KEY_FILE = "pipeline.key"
TRUST = "trust"
"""The trust root's directory under `data/`."""
KEY_ID = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Officer:
    """A person with a key of the role `officer`."""

    person: str
    key: TrustedKey


def trust_root(settings: Settings) -> Trust:
    """The institution's trust root, verified. Raises NotFoundError where there is none, and IntegrityError."""
    return load_trust(settings.data / TRUST)


def officer_of(trust: Trust, keyid: str) -> Officer:
    """Who holds a key. Raises IntegrityError for one without the role, and SignInError for a revoked one."""
    key = trust.key(OFFICER, keyid)
    if not trust.counts(OFFICER, keyid, None):
        raise SignInError(f"The key of {key.person} is revoked.", "Use the key that replaced it.")
    assert key.person is not None  # of every officer's key, as reading the trust root asserts
    return Officer(key.person, key)


def pipeline_signer(settings: Settings, trust: Trust) -> Signer:
    """The key by which this installation signs transitions. Raises IntegrityError where the trust root does not know
    it, and SignInError where it is revoked."""
    signer = read_key(settings.keys / PIPELINE_KEY_FILE, lambda: "")
    trust.key(PIPELINE, signer.keyid)
    if not trust.counts(PIPELINE, signer.keyid, None):
        raise SignInError(
            "The pipeline's key is revoked, so no transition is made.", "Put the one here that replaced it."
        )
    return signer


def entry_actor(officer: Officer) -> str:
    """How an officer stands in the audit log: by key, so that no name of a person is in what cannot be erased."""
    return actor_of(officer.key.keyid)


def actor_of(keyid: str) -> str:
    """The same of the officer with this key."""
    return f"officer:{keyid}"


def assert_may(officer: Officer, act: str, levels: Iterable[str]) -> None:
    """Raises SignInError where the trust root does not let this officer do so at each of these levels."""
    for level in sorted(set(levels)):
        if not officer.key.allows(act, level):
            raise SignInError(
                f"{officer.person} may not decide about '{act}' at {level}.",
                "The trust root says who may; ask one of these officers.",
            )


def verify_act(
    bundle: bytes,
    trust: Trust,
    act: str,
    levels: Iterable[str],
    *,
    predicate_type: str,
    sha256: str,
    at_index: int | None,
) -> Verified:
    """The statement by which an officer acted, verified at its place in the log.

    Raises IntegrityError where it does not count, or its officer may not do so at each of these levels.
    """
    verified = verify_statement(bundle, trust, OFFICER, predicate_type=predicate_type, sha256=sha256, at_index=at_index)
    for level in sorted(set(levels)):
        if not verified.key.allows(act, level):
            raise IntegrityError(
                f"{verified.key.person} signed this, and may not decide about '{act}' at {level}.",
                "Somebody who may do so decides it anew.",
            )
    return verified


def officer_shown(trust: Trust | None, officer: str) -> str:
    """Who an officer is, for people: the person of a key. Others are of a release that took a typed name."""
    known = {key.keyid: key.person for key in trust.keys(OFFICER)} if trust is not None else {}
    if person := known.get(officer):
        return person
    return officer_in_short(officer) if KEY_ID.fullmatch(officer) else f"{officer} (typed name, unsigned)"


def officer_in_short(officer: str) -> str:
    """For a file that cannot be erased: the beginning of the key's id, and no name but one that was typed long ago."""
    return f"key {officer[:12]}" if KEY_ID.fullmatch(officer) else officer


def trust_root_if_any(settings: Settings) -> Trust | None:
    """The trust root; None where there is none. Raises IntegrityError."""
    return trust_root(settings) if (settings.data / TRUST).is_dir() else None
