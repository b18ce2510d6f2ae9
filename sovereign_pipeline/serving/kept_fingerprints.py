"""Fingerprints in the artifact store: each is computed once, and stays what later engines are compared with.

The libraries that computed it are stated, but decide nothing: with newer ones an engine must still compute the same.

What belongs here: finding or making one. What does not: computing it (`training_side.py`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sovereign_pipeline.artifacts.making import Identity, make_artifact
from sovereign_pipeline.artifacts.stage import Built, Progress
from sovereign_pipeline.artifacts.store import ArtifactStore
from sovereign_pipeline.base.errors import EngineRefused, IntegrityError
from sovereign_pipeline.base.files import canonical_json
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base_models.pinned import open_base_model
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.serving.deployable import Verified
from sovereign_pipeline.serving.fingerprints import NEW_TOKENS, TOP, Fingerprint, conversations, problem_of
from sovereign_pipeline.serving.training_side import Job, compute_apart

KIND = "adapter_fingerprint"
FILE = "fingerprint.json"


@dataclass(frozen=True)
class FingerprintStore:
    """Where fingerprints are kept and made."""

    store: ArtifactStore
    institution: Institution
    settings: Settings
    progress: Progress
    compute: Callable[[Job], Fingerprint] = compute_apart

    def fingerprint_of(self, verified: Verified) -> Fingerprint:
        """The stored fingerprint of an adapter, computed now where there is none: in some seconds.

        Raises IntegrityError where a byte of the base model or of the fingerprint is not as recorded, EngineRefused for
        an adapter that cannot be told from its base model, and WorkerKilled.
        """
        asked = conversations(verified.instruction)
        made = make_artifact(self, self._identity(verified, asked), lambda where: self._build(verified, asked, where))
        path = self.store.open(made.ref).file(FILE)
        try:
            fingerprint = Fingerprint.model_validate_json(path.read_bytes())
        except ValueError:
            raise IntegrityError(f"{path}: this is no fingerprint.", "Remove the artifact.") from None
        name, problem = verified.deployable.adapter, problem_of(fingerprint)
        if problem is not None:
            raise EngineRefused(
                f"{name} cannot be told from its base model: {problem}.",
                "Nobody could see whether an engine uses it. Train it longer, or from other rows.",
            )
        return fingerprint

    def _identity(self, verified: Verified, asked: tuple[str, ...]) -> Identity:
        return Identity(
            kind=KIND,
            line=verified.deployable.line,
            ladder=self.institution.classification,
            code_version="1",
            config={"conversations": list(asked), "new_tokens": NEW_TOKENS, "top": TOP},
            inputs={"adapter": verified.artifact.ref, "base_model": verified.base_model.ref},
            external_inputs={},
            libraries={},
        )

    def _build(self, verified: Verified, asked: tuple[str, ...], workspace: Path) -> Built:
        adapter = verified.deployable
        base = open_base_model(self.settings, verified.base_model, self.progress)
        self.progress(f"{adapter.adapter}: computing its fingerprint on the training side")
        fingerprint = self.compute(Job(base, adapter.digest, adapter.directory, asked))
        (workspace / FILE).write_bytes(canonical_json(fingerprint.model_dump(mode="json")) + b"\n")
        return Built({"tokens": sum(len(mark.tokens) for mark in fingerprint.marks)})
