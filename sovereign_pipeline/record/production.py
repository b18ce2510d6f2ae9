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
"""Value of `line` in the identity of a `Part`, because all lines share parts. A recipe's line cannot have this name."""


@dataclass(frozen=True)
class Part:
    """A stored intermediate result of a stage, which all lines with equal inputs reuse."""

    kind: str
    code_version: str
    config: Config
    """Settings that affect the result."""
    inputs: Mapping[str, str]
    """Mapping of each input's name to its digest."""
    libraries: tuple[str, ...]
    """Names of the Python distributions whose version affects the result."""
    classification: str
    """Highest classification level of the part's inputs. A part is reused only for inputs with this level."""


def produce(stage: Stage, workplace: Workplace, inputs: Mapping[str, ArtifactRef]) -> Production:
    """Build the stage's artifact, reuse a stored one, or pass an input through. Stores nothing on an error.

    Args:
        inputs: maps the kind of each stage in `stage.inputs_of` to its artifact.

    Raises:
        RecipeError: the recipe has unfilled placeholders.
        StaleInput: an input, or an artifact upstream of it, is stale.
        GateRefused: one of these artifacts did not pass a gate, and the gate was not waived.
        IntegrityError: a stored file was changed, or an outside file was changed while the build read it.
        Exception: any error of the build or of `Seals.assert_ready`.
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
            raise IntegrityError(
                f"A file that {stage.kind} reads was changed while it was read.", "Run the line again."
            )
        return built

    return make_artifact(workplace, identity, build)


def make_part(workplace: Workplace, part: Part, build: Callable[[Path], dict[str, int]]) -> Production:
    """Build a part of a stage's work, or reuse a stored one. Stores nothing on an error.

    A part has no gates. Only one stage reads it, and the gates of this stage check the result. Raises the errors of
    `make_artifact`.

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
