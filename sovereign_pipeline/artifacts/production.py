"""Making artifacts: `produce` is the only way one comes into being, `judge` the only way a gate's record does, `accept`
the only way an officer's acceptance of one does, and `keep` the only way a part of a stage's work is kept by itself.

`assert_usable` is the consumer's half of every gate. What an artifact is: `manifest.py`; what a stage is: `stage.py`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sovereign_pipeline.artifacts.gates import assert_usable
from sovereign_pipeline.artifacts.making import Identity, Production, identity_of, library_versions, make_artifact
from sovereign_pipeline.artifacts.manifest import ArtifactRef
from sovereign_pipeline.artifacts.stage import Built, Config, Stage, Workplace
from sovereign_pipeline.errors import IntegrityError

EVERY_LINE = "*"
"""The line of what is kept for all of them; none can have this name."""


@dataclass(frozen=True)
class Part:
    """A part of a stage's work that is kept by itself, and found again by whichever line needs exactly this.

    config: settings that decide the result. inputs: name -> digest of all that it is made from. libraries:
    distributions whose version changes the result. classification: the highest of all that it is made from; what was
    made from the same at another level is something else.
    """

    kind: str
    code_version: str
    config: Config
    inputs: Mapping[str, str]
    libraries: tuple[str, ...]
    classification: str


def produce(stage: Stage, workplace: Workplace, inputs: Mapping[str, ArtifactRef]) -> Production:
    """Make the stage's artifact, or find it made. `inputs`: one reference for each of `stage.inputs`, by kind.

    Raises StaleInput or GateRefused when an input may not be used, IntegrityError when bytes changed, and whatever the
    build raises. Nothing is left behind on any error.
    """
    opened = {kind: workplace.store.open(ref) for kind, ref in inputs.items()}
    for upstream in stage.inputs:
        assert_usable(upstream, workplace, inputs[upstream.kind])
    passthrough = stage.passthrough_of(workplace.line)
    if passthrough is not None:
        return Production(inputs[passthrough], reused=True)
    identity = identity_of(stage, workplace, inputs)

    def build(workspace: Path) -> Built:
        built = stage.build(workplace, opened, workspace)
        if stage.external(workplace) != identity.external_inputs:
            raise IntegrityError(f"A file that {stage.kind} reads was changed while it was read. Run again.")
        return built

    return make_artifact(workplace, identity, build)


def make_part(workplace: Workplace, part: Part, build: Callable[[Path], dict[str, int]]) -> Production:
    """Make a part of a stage's work, or find it made. build: fills the workspace and returns the summary.

    It has no gates of its own and is nobody's input: what may be made from it, the stage decides whose work it is.
    Raises IntegrityError when bytes changed, and whatever the build raises. Nothing is left behind on any error.
    """
    identity = Identity(
        kind=part.kind,
        line=EVERY_LINE,
        ladder=workplace.institution.classification,
        code_version=part.code_version,
        config={**part.config, "classification": part.classification},
        inputs={},
        external_inputs=part.inputs,
        libraries=library_versions(part.libraries),
    )
    return make_artifact(
        workplace, identity, lambda workspace: Built(build(workspace), classification=part.classification)
    )
