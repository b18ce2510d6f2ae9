"""What a command works on: the line's workplace, in which nothing is trained."""

from pathlib import Path

from sovereign_pipeline.artifacts.stage import Workplace
from sovereign_pipeline.artifacts.store import ArtifactStore
from sovereign_pipeline.errors import TrainingFailed
from sovereign_pipeline.policy.institution import load_institution
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.settings import Settings


def open_workplace(settings: Settings, recipe: Line) -> Workplace:
    """Raises RecipeError for an institution that does not validate."""
    return Workplace(
        store=ArtifactStore(settings.artifacts),
        settings=settings,
        institution=load_institution(settings.data),
        line=recipe,
        progress=lambda message: None,
        launch=_no_trainer_here,
    )


def _no_trainer_here(job: Path) -> None:
    raise TrainingFailed("Training runs as an asset: use `sovereign run LINE` or the Dagster UI.")
