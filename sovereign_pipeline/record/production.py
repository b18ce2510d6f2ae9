"""`produce`: make a stage's artifact or reuse it, once every input may be used."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.policy.line import refuse_to_fill_in
from sovereign_pipeline.record.gates import assert_inputs_usable
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.stage import (
    Built,
    Config,
    Identity,
    Production,
    Stage,
    Workplace,
    identity_of,
    library_versions,
    make_artifact,
)

EVERY_LINE = "*"
"""The line of a part that all lines share; no line can have this name."""


@dataclass(frozen=True)
class Part:
    """A part of a stage's work that is stored by itself and reused by every line that needs exactly this."""

    kind: str
    code_version: str
    config: Config
    """Settings that decide the result."""
    inputs: Mapping[str, str]
    """Name -> digest of everything it is made from."""
    libraries: tuple[str, ...]
    """Distributions whose version changes the result."""
    classification: str
    """The highest of its inputs; part of the identity."""


def produce(stage: Stage, workplace: Workplace, inputs: Mapping[str, ArtifactRef]) -> Production:
    """Make the stage's artifact, or reuse it. `inputs`: one reference for each of `stage.inputs_of` the line, by kind.

    Raises RecipeError for a recipe that is not filled in, StaleInput or GateRefused when an input may not be used,
    IntegrityError when bytes changed, and whatever the build raises. Nothing is left behind on any error.
    """
    refuse_to_fill_in(workplace.line)
    opened = {kind: workplace.store.open(ref) for kind, ref in inputs.items()}
    assert_inputs_usable(stage, workplace, inputs)
    passthrough = stage.passthrough_of(workplace.line)
    if passthrough is not None:
        return Production(inputs[passthrough], reused=True)
    identity = identity_of(stage, workplace, inputs)

    def build(workspace: Path) -> Built:
        built = stage.build(workplace, opened, workspace)
        if stage.external(workplace) != identity.external_inputs:
            raise IntegrityError(f"A file that {stage.kind} reads was changed while it was read.", "Run again.")
        return built

    return make_artifact(workplace, identity, build)


def make_part(workplace: Workplace, part: Part, build: Callable[[Path], dict[str, int]]) -> Production:
    """Make a part of a stage's work, or reuse it. `build` fills the workspace and returns the summary.

    A part has no gates and is no stage's input: the stage that uses it is responsible for it. Raises IntegrityError
    when bytes changed, and whatever the build raises. Nothing is left behind on any error.
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
