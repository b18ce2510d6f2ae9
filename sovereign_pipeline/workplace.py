"""Opening a line's workplace: its recipe, its paths, and look-ups that stages need from later in the chain.

What belongs here: putting a `Workplace` together. What does not: what a stage does with one (`artifacts/stage.py`).
"""

from functools import partial
from pathlib import Path

from sovereign_pipeline.artifacts.stage import Launch, Progress, Workplace
from sovereign_pipeline.artifacts.store import ArtifactStore
from sovereign_pipeline.errors import TrainingFailed
from sovereign_pipeline.ledger.database import open_registry
from sovereign_pipeline.policy.institution import load_institution
from sovereign_pipeline.policy.line import load_line
from sovereign_pipeline.privacy.columns import column_secret, kinds_in_columns
from sovereign_pipeline.review.closed_reviews import adapters_that_lost
from sovereign_pipeline.settings import Settings


def _no_progress(message: str) -> None:
    """For work that takes moments."""


def _no_trainer(job: Path) -> None:
    raise TrainingFailed("Nothing is trained outside an asset.", "Materialize the asset in the Dagster UI.")


def open_workplace(
    settings: Settings, line: str, progress: Progress = _no_progress, launch: Launch = _no_trainer
) -> Workplace:
    """The workplace of one line; without a launcher nothing can be trained in it.

    Raises RecipeError for an invalid recipe or institution file, and NotFoundError for a line that has none.
    """
    institution = load_institution(settings.data)
    store = ArtifactStore(settings.artifacts)
    return Workplace(
        store=store,
        settings=settings,
        institution=institution,
        line=load_line(settings.data, line, institution),
        progress=progress,
        launch=launch,
        lost_review=lambda name: adapters_that_lost(open_registry(settings), store, name),
        kinds_in_columns=kinds_in_columns,
        column_secret=partial(column_secret, settings, create=True),
    )
