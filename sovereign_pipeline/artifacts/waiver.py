"""A waiver: an officer's signed decision, with a reason, to use an artifact that did not pass a gate.

What belongs here: what a waiver holds, and whether it counts. How one is made and found: `gates.py`; which gates may be
waived: `policy/margins.py`. There is no other way past a gate.
"""

import hashlib
from typing import Any, Literal

from pydantic import ValidationError

from sovereign_pipeline.artifacts.stage import Outcome, WaiverLog
from sovereign_pipeline.artifacts.store import Artifact, ArtifactStore
from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.frozen import Frozen
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.signing.officers import trust_root, verify_act
from sovereign_pipeline.signing.predicates import WAIVER

GATE_WAIVER = "gate_acceptance"
WAIVER_FILE = "acceptance.json"
SIGNATURE_FILE = "acceptance.sigstore.json"
WAIVE = "waive"
"""What the trust root must let an officer do."""

WaiverKind = Literal["accept", "override"]
KIND_OF: dict[Outcome, WaiverKind] = {"inconclusive": "accept", "fail": "override"}
"""The kind of waiver that an outcome needs."""


class Waiver(Frozen):
    """The content of `acceptance.json`.

    Its time is in the manifest's circumstances. What is waived is the manifest's one input: the gate's record.
    """

    gate: str
    kind: WaiverKind
    officer: str
    """The id of the officer's key."""
    reason: str


def stated_waiver(artifact: Artifact) -> Waiver:
    """What a waiver says; its signature is not looked at.

    Raises IntegrityError for a file that is none, or that differs from its manifest.
    """
    path = artifact.file(WAIVER_FILE)
    try:
        waiver = Waiver.model_validate_json(path.read_bytes())
    except ValidationError:
        raise IntegrityError(
            f"{path}: this file is not an officer's waiver.", "Remove the artifact and find out who put it there."
        ) from None
    stated = artifact.manifest.producer.config
    if (waiver.gate, waiver.kind) != (stated.get("gate"), stated.get("kind")):
        raise IntegrityError(
            f"{path}: the waiver is for another gate or of another kind than its manifest states.",
            "Restore it from a copy.",
        )
    return waiver


def read_waiver(store: ArtifactStore, settings: Settings, log: WaiverLog, artifact: Artifact) -> Waiver:
    """Read a waiver that counts: signed by an officer whom the trust root lets waive at this level, and on record.

    Raises IntegrityError for any other.
    """
    waiver = stated_waiver(artifact)
    if SIGNATURE_FILE not in {entry.path for entry in artifact.manifest.files}:
        raise IntegrityError(
            f"{artifact.path}: no officer signed this waiver, so it counts for nothing.",
            "An officer waives the gate with a key.",
        )
    path = artifact.file(SIGNATURE_FILE)
    bundle = path.read_bytes()
    index = log.index_of(hashlib.sha256(bundle).hexdigest())
    if index is None:
        raise IntegrityError(
            f"{path}: no entry of the audit log names this waiver.", "Find out who put it there, and past what."
        )
    try:
        verified = verify_act(
            bundle,
            trust_root(settings),
            WAIVE,
            [artifact.manifest.classification],
            predicate_type=WAIVER,
            sha256=hashlib.sha256(artifact.file(WAIVER_FILE).read_bytes()).hexdigest(),
            at_index=index,
        )
    except IntegrityError as error:
        raise IntegrityError(f"{path}: {error.message}", error.hint) from None
    said = dict(verified.statement.predicate)
    (record,) = artifact.manifest.inputs
    (evaluated,) = store.read_manifest(store.input_ref(artifact.manifest, record)).inputs.values()
    expected = waiver_predicate(artifact.manifest.line, waiver, evaluated, artifact.manifest.inputs[record])
    if said != expected or verified.key.keyid != waiver.officer:
        raise IntegrityError(
            f"{path}: what the officer signed is another waiver than this.", "Find out who put it there."
        )
    return waiver


def waiver_predicate(line: str, waiver: Waiver, evaluated: str, record: str) -> dict[str, Any]:
    """What an officer signs. evaluated, record: digests of the artifact and of the verdict on it."""
    return {
        "line": line,
        "gate": waiver.gate,
        "artifact": evaluated,
        "record": record,
        "kind": waiver.kind,
        "reason": waiver.reason,
    }
