"""Build a stage's artifact or reuse a stored one, after asserting that every input may be used."""

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
"""Value of `line` for parts, because all lines share them. A recipe's line cannot have this name."""


@dataclass(frozen=True)
class Part:
    """A stored intermediate result of a stage, which all lines with equal inputs reuse."""

    kind: str
    code_version: str
    config: Config
    """Settings that affect the result."""
    inputs: Mapping[str, str]
    """Name -> digest of every input."""
    libraries: tuple[str, ...]
    """Distributions whose version affects the result."""
    classification: str
    """Highest classification level of the part's inputs. The level belongs to the part's identity."""


def produce(stage: Stage, workplace: Workplace, inputs: Mapping[str, ArtifactRef]) -> Production:
    """Build the stage's artifact, or reuse a stored one. Stores nothing on an error.

    Args:
        inputs: kind -> artifact for each stage of `stage.inputs_of`.

    Raises:
        RecipeError: the recipe has unfilled placeholders.
        StaleInput: an input is stale.
        GateRefused: an input did not pass a gate.
        IntegrityError: a file changed.
        Exception: any error of the build.
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
    """Build a part of a stage's work, or reuse a stored one. Stores nothing on an error.

    A part has no gates, and only one stage reads it. The gates of this stage check the result. Raises IntegrityError if
    a file changed, and any error of the build.

    Args:
        build: writes the part's files into the workspace and returns the summary.
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
