"""Audit a registered adapter from public files, given only the SHA-256 of the trust root's first root.

The SHA-256 verifies the trust root. The trust root's keys verify the ledger, its witnesses and all signed acts. Ledger
entries verify the registry's rows, and the registered record verifies every byte of the lineage. An audit writes
nothing and needs no private key.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.record import checkpoints
from sovereign_pipeline.record.catalog import find_adapter
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.in_force import assert_rules_kept
from sovereign_pipeline.record.officers import TRUST, trust_root
from sovereign_pipeline.record.stage import Progress
from sovereign_pipeline.record.store import ArtifactStore
from sovereign_pipeline.record.tables import Adapter
from sovereign_pipeline.record.trust_root import Trust, load_trust
from sovereign_pipeline.record.verifying import verify_registry
from sovereign_pipeline.record.witnesses import Witnessed, assert_log_of, witnessed_by
from sovereign_pipeline.registry.record import read_record
from sovereign_pipeline.registry.verification import VerificationReport, verify_adapter
from sovereign_pipeline.release.standing import assert_signed, standings
from sovereign_pipeline.review.closing import examine_all


@dataclass(frozen=True)
class AuditReport:
    trust: Trust
    entries: int
    witnessed: Witnessed | None
    """Newest checkpoint that the trust root's witnesses cosigned. None if the trust root names no witnesses."""
    requests: int
    """Number of verified requests about the adapter's line and its parents' lines."""
    transitions: int
    lineage: VerificationReport

    def to_dict(self) -> dict[str, Any]:
        trust = self.trust
        return {
            **self.lineage.to_dict(),
            "trust_root": trust.root_sha256,
            "trust_root_version": trust.root_version,
            "trust_targets_version": trust.targets_version,
            "demonstration_keys": trust.is_demonstration,
            "entries": self.entries,
            "witnessed": self.witnessed.entries if self.witnessed is not None else None,
            "requests": self.requests,
            "transitions": self.transitions,
        }


def audit_adapter(
    registry: Registry,
    store: ArtifactStore,
    settings: Settings,
    adapter_id: str,
    root_sha256: str,
    progress: Progress,
) -> AuditReport:
    """Verify an adapter and every act that led to its state.

    Args:
        registry: an open registry; read-only is enough.
        root_sha256: SHA-256 of the trust root's first root.

    Raises IntegrityError if a file, ledger entry, row or signature is invalid; the error names the first. Raises
    NotFoundError if the adapter is not registered.
    """
    trust = load_trust(settings.data / TRUST, root_sha256)
    ledger = verify_registry(registry).ledger
    with registry.reading() as session:
        log = checkpoints.verifier(session, settings)
        if log is None:
            raise IntegrityError("The ledger has no key, so it cannot be verified.", checkpoints.RESTORE)
        assert_log_of(trust, log, ledger.newest.sequence)
        witnessed = witnessed_by(trust, log, settings)
        assert_rules_kept(session, settings)
    _assert_no_finding(examine_all(registry, store, settings))
    requests, transitions = _verify_acts(registry, store, settings, trust, adapter_id)
    lineage = verify_adapter(registry, store, settings, adapter_id, progress)
    return AuditReport(trust, ledger.newest.sequence, witnessed, requests, transitions, lineage)


def verify_with_acts(
    registry: Registry, store: ArtifactStore, settings: Settings, adapter_id: str, progress: Progress
) -> VerificationReport:
    """Verify an adapter and its inputs, and every signed act about its line and its parents' lines. Uses the trust root
    in the data root. Raises the errors of `verify_adapter`, and IntegrityError if an act is invalid; the error names
    the first such act."""
    report = verify_adapter(registry, store, settings, adapter_id, progress)
    _verify_acts(registry, store, settings, trust_root(settings), adapter_id)
    return report


def _assert_no_finding(found: dict[str, list[str]]) -> None:
    findings = [f"review {review}: {each}" for review, several in found.items() for each in several]
    if findings:
        raise IntegrityError(f"The registry: {'; '.join(findings)}.", checkpoints.RESTORE)


def with_parents(registry: Registry, store: ArtifactStore, adapter_id: str) -> Iterator[Adapter]:
    """Yield the adapter, its parent adapter, the parent's parent, and so on. Stops at an adapter that was yielded
    before."""
    waiting: str | None = adapter_id
    seen: set[str] = set()
    while waiting is not None and waiting not in seen:
        seen.add(waiting)
        adapter = find_adapter(registry, waiting)
        yield adapter
        parent = read_record(store.open(adapter.record_ref)).parent_adapter
        waiting = parent.adapter if parent is not None else None


def _verify_acts(
    registry: Registry, store: ArtifactStore, settings: Settings, trust: Trust, adapter_id: str
) -> tuple[int, int]:
    """Verify all requests, decisions and transitions of the line of an adapter and of its parents' lines. Returns the
    number of requests and the number of transitions."""
    lines = dict.fromkeys(each.line for each in with_parents(registry, store, adapter_id))
    with registry.reading() as session:
        requests = sum(len(standings(session, settings, trust, line)) for line in lines)
        return requests, sum(len(assert_signed(session, settings, trust, line)) for line in lines)
