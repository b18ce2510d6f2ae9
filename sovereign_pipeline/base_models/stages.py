"""The stage `base_model`: the pinned model of a line, verified and described.

What belongs here: the build and the declaration. What does not: reading a model directory (`verified.py`).
"""

from pathlib import Path

from sovereign_pipeline.artifacts.hashing import canonical_json, file_sha256
from sovereign_pipeline.artifacts.stage import Built, Inputs, Stage, Workplace
from sovereign_pipeline.base_models.cards import card_path, load_card
from sovereign_pipeline.base_models.verified import DESCRIPTOR, describe, verify
from sovereign_pipeline.errors import CeilingExceeded


def build_base_model(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    """Verify the model directory and describe it. The model itself stays where it is.

    Raises NotFoundError for an unknown model, CeilingExceeded for one above the line's ceiling, and IntegrityError
    naming the first file that is not the pinned one.
    """
    card = load_card(workplace.settings, workplace.line.training.base_model)
    if workplace.institution.ladder.exceeds(card.classification, workplace.line.ceiling):
        raise CeilingExceeded(
            f"Line {workplace.line.line} may hold {workplace.line.ceiling} at most, and the base model {card.name} is "
            f"{card.classification}.",
            "Name another base model, or have the ceiling of the line raised.",
        )
    verify(workplace.settings, card, workplace.progress)
    descriptor = describe(workplace.settings, card)
    (workspace / DESCRIPTOR).write_bytes(canonical_json(descriptor) + b"\n")
    workplace.progress(f"{card.name}: {len(card.files)} files verified, {descriptor['parameters']:,} parameters")
    return Built(
        summary={key: value for key, value in descriptor.items() if key != "files"},
        classification=card.classification,
    )


def _card_digest(workplace: Workplace) -> dict[str, str]:
    card = load_card(workplace.settings, workplace.line.training.base_model)
    return {f"models/{card.name}.yaml": file_sha256(card_path(workplace.settings, card.name))}


BASE_MODEL = Stage(
    kind="base_model",
    code_version="1",
    build=build_base_model,
    config=lambda line: {"base_model": line.training.base_model, "ceiling": line.ceiling},
    external=_card_digest,
)
