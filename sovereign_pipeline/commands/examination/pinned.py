"""What is pinned and signed: trust root, vault key, base models, suites, artifacts.

What belongs here: comparing what is here with its pin. What does not: the ledger (`records.py`).
"""

import datetime
from collections.abc import Sequence

from sovereign_pipeline.base.errors import SovereignError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import and_more, counted
from sovereign_pipeline.commands.examination.findings import Finding, failed, wrong
from sovereign_pipeline.commands.terminal import tell_progress
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.privacy.vault import fingerprint_of, read_public_key
from sovereign_pipeline.record.manifest import MANIFEST_FILE
from sovereign_pipeline.record.officers import pipeline_signer, trust_root
from sovereign_pipeline.record.sealing import PROVENANCE_BUNDLE
from sovereign_pipeline.record.trust_root import DEMONSTRATION_KEYS, Trust

EXPIRES_SOON = datetime.timedelta(days=60)
"""So long before a trust root expires its holders are to sign it anew."""


def trust(settings: Settings) -> Finding:
    """Without a trust root, or the pipeline's key, nothing is made."""
    try:
        trust = trust_root(settings)
        pipeline_signer(settings, trust)
        _assert_on_record(settings, trust)
    except SovereignError as error:
        return failed("trust root", error)
    if trust.is_demonstration:
        hint = "Make a trust root with sovereign-trust, on an offline machine."
        return Finding("trust root", False, f"{DEMONSTRATION_KEYS}: this machine can sign as anybody", {"Hint": hint})
    if trust.expires - datetime.datetime.now(datetime.UTC) < EXPIRES_SOON:
        hint = "Its holders lengthen it on the offline machine; what is expired stops new work."
        return wrong(
            "trust root", f"it expires on {trust.expires:%Y-%m-%d}", hint, "sovereign-trust renew DIR --key FILE"
        )
    return Finding("trust root", True, f"root {trust.root_version}, accepted until {trust.expires:%Y-%m-%d}")


def _assert_on_record(settings: Settings, trust: Trust) -> None:
    """Raise IntegrityError for a trust root that is not the one of the ledger. Without a registry there is none yet."""
    from sovereign_pipeline.record.database import is_there, open_registry
    from sovereign_pipeline.record.in_force import assert_same_trust, trust_files, trust_on_record

    if not is_there(settings):
        return
    with open_registry(settings).reading() as session:
        known = trust_on_record(session)
    if known is not None:
        assert_same_trust(known, trust, trust_files(settings))


def vault(settings: Settings, institution: Institution) -> Finding:
    """Whether the vault has a public key, and institution.yaml names it."""
    if not settings.vault_public_key.is_file():
        command = f"sovereign-vault keygen --private FILE --public {settings.vault_public_key}"
        return wrong("vault key", "no public key", "Make one offline.", command)
    try:
        fingerprint = fingerprint_of(read_public_key(settings.vault_public_key))
    except SovereignError as error:
        return failed("vault key", error)
    if institution.vault_key is None:
        found = f"{settings.vault_public_key} is not pinned, so the first key is trusted"
        return wrong("vault key", found, f"Write vault_key: {fingerprint} into institution.yaml, once it is your key.")
    if institution.vault_key != fingerprint:
        found = f"{settings.vault_public_key} is not the key that institution.yaml names"
        return wrong(
            "vault key", found, "Find out who changed the file, or set vault_key if it was changed on purpose."
        )
    return Finding("vault key", True, f"public key at {settings.vault_public_key}, as pinned")


def base_models(settings: Settings, recipes: Sequence[Line]) -> list[Finding]:
    from sovereign_pipeline.base_models.pinned import load_card, verify

    findings = []
    for name in sorted({recipe.training.base_model for recipe in recipes}):
        try:
            verify(settings, load_card(settings, name), tell_progress)
            findings.append(Finding(f"base model {name}", True, "every file is the pinned one"))
        except SovereignError as error:
            findings.append(failed(f"base model {name}", error))
    return findings


def suites(settings: Settings, recipes: Sequence[Line]) -> list[Finding]:
    """Whether each published suite that a line names is here and pinned by its card."""
    from sovereign_pipeline.suites.cards import load_suite_card, suite_digest

    entries = [each for recipe in recipes if recipe.evaluation is not None for each in recipe.evaluation.capability]
    findings = []
    for name in sorted({entry.suite for entry in entries if entry.suite is not None}):
        try:
            card = load_suite_card(settings, name)
            digest = suite_digest(settings, card)
        except SovereignError as error:
            findings.append(failed(f"suite {name}", error))
            continue
        if card.sha256 is None:
            hint = f"Write sha256: {digest} into its card, once you know that the files are the publisher's."
            findings.append(wrong(f"suite {name}", "its card pins no digest, so any files count", hint))
        else:
            findings.append(Finding(f"suite {name}", True, "every file is the pinned one"))
    return findings


def signed(settings: Settings) -> list[Finding]:
    """Which artifacts have no signature. `adapters verify` says whether each signature counts."""
    stored = [path.parent for path in settings.artifacts.glob(f"*/{MANIFEST_FILE}")]
    if not stored:
        return []
    unsigned = [path.name[:12] for path in sorted(stored) if not (path / PROVENANCE_BUNDLE).is_file()]
    if not unsigned:
        return [Finding("artifacts", True, f"{counted(len(stored), 'artifact')}, each with its signature beside it")]
    what = f"{len(unsigned)} of {counted(len(stored), 'artifact')} are unsigned: {and_more(unsigned)}"
    return [wrong("artifacts", what, "Restore them from a copy.")]
