"""The institution's trust root on this machine, the pipeline's key, and the officer behind a key.

What belongs here: where these lie, and whose a key is. What does not: reading a trust root (`trust.py`), and what an
officer may do (`release/`).
"""

from dataclasses import dataclass

from sovereign_pipeline.errors import SignInError
from sovereign_pipeline.settings import Settings
from sovereign_pipeline.signing.keys import Signer, read_key
from sovereign_pipeline.signing.trust import Trust, TrustedKey, load_trust

OFFICER, PIPELINE = "officer", "pipeline"
PIPELINE_KEY_FILE = "pipeline.key"
TRUST = "trust"
"""The trust root's directory under `data/`."""


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
    return f"officer:{officer.key.keyid}"
