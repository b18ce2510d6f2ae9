"""A waiver: an officer's decision, by name and with a reason, to use an artifact that did not pass a gate.

What belongs here: what a waiver holds and how it is read. How one is made and found: `gates.py`; which gates may be
waived: `policy/margins.py`. There is no other way past a gate.
"""

from typing import Literal

from pydantic import ValidationError

from sovereign_pipeline.artifacts.stage import Outcome
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.errors import IntegrityError
from sovereign_pipeline.frozen import Frozen

GATE_WAIVER = "gate_acceptance"  # the stored kind and file keep their first name, so old homes stay valid
WAIVER_FILE = "acceptance.json"

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
    """As typed on the command line; not proved here.

    A waiver is an ordinary artifact, and every use of one passes `read_waiver`: a signature can be required there.
    """
    reason: str


def read_waiver(artifact: Artifact) -> Waiver:
    """Read a waiver. Raises IntegrityError for a file that is none, or that differs from its manifest."""
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
