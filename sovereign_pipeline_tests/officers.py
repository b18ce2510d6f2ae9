"""Officers of an invented institution: a trust root with demonstration keys, and waiving by one of them."""

from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.gates import Waiver, propose_waiver
from sovereign_pipeline.record.gates import waive as waive_by_key
from sovereign_pipeline.record.keys import FileSigner, Signer, generate, read_key, write_key
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.officers import TRUST
from sovereign_pipeline.record.stage import Gate, Stage, Workplace
from sovereign_pipeline.record.tables import Recall
from sovereign_pipeline.record.trust_changes import add_officer
from sovereign_pipeline.release.recall import Question, ask, open_recall
from sovereign_pipeline_tests.trusted import trust_demonstration

PERSON = "Demonstration Officer 1"
"""Of the key that `officer` gives."""


def officer(settings: Settings, number: int = 1) -> FileSigner:
    """An officer who may do everything; the trust root is made where there is none."""
    trust_demonstration(settings)
    return read_key(settings.keys / f"officer-{number}.key", lambda: "")


def officer_called(settings: Settings, person: str) -> FileSigner:
    """An officer of this name, who may do everything."""
    officer(settings)
    path = settings.keys / f"{person}.key"
    if not path.exists():
        key = generate()
        write_key(path, key, None)
        roots = [read_key(settings.keys / f"root-{number}.key", lambda: "") for number in (1, 2)]
        add_officer(settings.data / TRUST, key.public_pem, person, ["*"], ["*"], roots)
    return read_key(path, lambda: "")


def waive(
    stage: Stage, gate: Gate, workplace: Workplace, ref: ArtifactRef, reason: str = "Because.", number: int = 1
) -> tuple[ArtifactRef, Waiver]:
    """Waive a gate as an officer."""
    signer = officer(workplace.settings, number)
    return waive_by_key(propose_waiver(stage, gate, workplace, ref, reason), signer)


def recall(registry: Registry, question: Question, signer: Signer | None = None, reason: str = "Withdrawn.") -> Recall:
    """Ask who holds it, and recall it as an officer."""
    return open_recall(registry, ask(registry, question), signer or officer(registry.settings), reason)
