"""An officer's word that an artifact may be used although a gate did not let it pass: by name and with a reason.

What belongs here: what an acceptance says and how it is read. How one is made and found: `production.py`; which gates
know an officer: `policy/gates.py`. There is no other way past a gate.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from sovereign_pipeline.artifacts.stage import Outcome
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.errors import IntegrityError

GATE_WAIVER = "gate_acceptance"
WAIVER_FILE = "acceptance.json"

WaiverKind = Literal["accept", "override"]
KIND_OF: dict[Outcome, WaiverKind] = {"inconclusive": "accept", "fail": "override"}
"""What letting an answer with this outcome pass is called."""


class Waiver(BaseModel):
    """What `acceptance.json` holds. When it was given stands in the manifest's circumstances; what it was given for is
    the manifest's one input, the record of the gate.

    officer: as typed by whoever gave it. That it was that officer is not proved here: the artifact is an ordinary one,
    so a signature over its directory can be required wherever `read_waiver` is called, and nowhere else.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    gate: str
    kind: WaiverKind
    officer: str
    reason: str


def read_waiver(artifact: Artifact) -> Waiver:
    """Raises IntegrityError for a file that is no acceptance, or of another gate or kind than its manifest says."""
    path = artifact.file(WAIVER_FILE)
    try:
        acceptance = Waiver.model_validate_json(path.read_bytes())
    except ValidationError:
        raise IntegrityError(
            f"{path}: not an officer's acceptance. Remove the artifact, and find out who put it there."
        ) from None
    said = artifact.manifest.producer.config
    if (acceptance.gate, acceptance.kind) != (said.get("gate"), said.get("kind")):
        raise IntegrityError(f"{path}: is of another gate or kind than the manifest says. Restore it from a copy.")
    return acceptance
