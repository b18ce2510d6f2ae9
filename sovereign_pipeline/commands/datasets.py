"""`sovereign datasets`: registered datasets, their data cards, and their verification."""

import typer

from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.commands.terminal import (
    AsJson,
    DatasetDigest,
    OfLine,
    only,
    out,
    print_facts,
    print_json,
    print_rows,
)
from sovereign_pipeline.commands.verification import StrictSources, verify

datasets = typer.Typer(no_args_is_help=True, help="List, show and verify registered datasets.")


@datasets.command("list")
def datasets_list(line: OfLine = None, as_json: AsJson = False) -> None:
    """List every dataset of which a registered adapter was made."""
    from sovereign_pipeline.record.catalog import list_datasets
    from sovereign_pipeline.record.database import open_registry

    rows = list_datasets(open_registry(Settings.from_environment()), line)
    named = ("digest", "line", "kind", "rows", "rows_held_out", "classification", "created_at")
    print_rows(rows if as_json else [only(row, *named) for row in rows], as_json, "Datasets")


@datasets.command("show")
def datasets_show(digest: DatasetDigest, as_json: AsJson = False) -> None:
    """Show the data card of a dataset, and its entry in the registry."""
    from sovereign_pipeline.record.catalog import show_dataset
    from sovereign_pipeline.record.database import open_registry
    from sovereign_pipeline.record.sealing import open_store
    from sovereign_pipeline.registry.verification import card_of_dataset

    settings = Settings.from_environment()
    row = show_dataset(open_registry(settings), digest)
    card = card_of_dataset(open_store(settings), row)
    if as_json:
        print_json({**row, "card": card.facts})
        return
    out.print(card.markdown, markup=False)
    print_facts(only(row, "digest", "manifest_sha256", "card_sha256", "created_at", "adapters"), as_json=False)


@datasets.command("verify")
def datasets_verify(digest: DatasetDigest, as_json: AsJson = False, strict_sources: StrictSources = False) -> None:
    """Verify a dataset and all its inputs, down to the source files.

    Every file is hashed again. Ends 1, naming the file, when one was changed. A source file that is gone or has
    changed since it was read is counted, with the rows that were withdrawn or reclassified: it ends 0 all the same, and
    1 with --strict-sources.
    """
    from sovereign_pipeline.registry.verification import verify_dataset

    verify(verify_dataset, digest, as_json, strict_sources)
