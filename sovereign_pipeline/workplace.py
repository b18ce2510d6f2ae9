"""Open a line's workplace: its recipe, its paths, and functions that read records of later stages."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.policy.institution import load_institution
from sovereign_pipeline.policy.line import Line, load_line
from sovereign_pipeline.privacy.corrections import load_word_lists
from sovereign_pipeline.privacy.detection import column_parts, column_secret, kinds_in_columns
from sovereign_pipeline.record.catalog import LedgerWaivers
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.record.in_force import rules_digest
from sovereign_pipeline.record.sealing import open_store
from sovereign_pipeline.record.stage import Launch, Progress, Workplace
from sovereign_pipeline.release.recall import ids_of_open_recalls, ids_of_recalls_of_data
from sovereign_pipeline.review.stages import adapters_that_lost
from sovereign_pipeline.training.preflight import with_decided_precision


def _no_progress(message: str) -> None:
    """Ignore progress, for short operations."""


def _no_trainer(job: Path) -> None:
    raise TrainingFailed("This process cannot train an adapter.", "Materialize the asset in the Dagster UI.")


def open_workplace(
    settings: Settings,
    line: str,
    progress: Progress = _no_progress,
    launch: Launch = _no_trainer,
    *,
    with_corpus: Callable[[Line], bool] | None = None,
) -> Workplace:
    """Open the workplace of one line. Without `launch`, a stage that starts a training run raises TrainingFailed.

    Args:
        with_corpus: returns True if the process may read the line's unscrubbed text. None means that it may not.

    Raises RecipeError for an invalid recipe or institution file, and NotFoundError for a line without a recipe.
    """
    rules = rules_digest(settings, line)  # computed first, so that a later change of a file is noticed
    institution = load_institution(settings.data)
    recipe = with_decided_precision(load_line(settings.data, line, institution))
    store = open_store(settings, settings.corpus if with_corpus is not None and with_corpus(recipe) else None)
    return Workplace(
        store=store,
        settings=settings,
        institution=institution,
        line=recipe,
        rules=rules,
        progress=progress,
        launch=launch,
        lost_review=lambda name: adapters_that_lost(open_registry(settings), store, name),
        open_recalls=lambda adapter: ids_of_open_recalls(open_registry(settings), adapter),
        recalls_of_data=lambda *data: ids_of_recalls_of_data(open_registry(settings), *data),
        kinds_in_columns=lambda config: kinds_in_columns(config, load_word_lists(settings.data, line)),
        column_parts=lambda: column_parts(settings.data, recipe),
        waivers=LedgerWaivers(lambda: open_registry(settings)),
        column_secret=partial(column_secret, settings, create=True),
    )
