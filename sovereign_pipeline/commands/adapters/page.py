"""`sovereign adapters show ID --html FILE`: the page about an adapter, as a file."""

import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from rich.markup import escape

from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.commands.terminal import out, write_new_file

if TYPE_CHECKING:
    from sovereign_pipeline.review.page.rendering import Language


def write_page(adapter_id: str, path: Path, language: "Language") -> None:
    """Write the page about an adapter. Raises as `write_new_file`."""
    from sovereign_pipeline.record.database import open_registry
    from sovereign_pipeline.record.sealing import open_store
    from sovereign_pipeline.registry_pages.adapter_view import adapter_view
    from sovereign_pipeline.registry_pages.rendering import adapter_file

    settings = Settings.from_environment()
    registry = open_registry(settings)
    store = open_store(settings, registry=registry)
    view = adapter_view(registry, store, adapter_id, datetime.datetime.now(datetime.UTC))
    write_new_file(path, adapter_file(view, language))
    out.print(f"[green]✓[/] {escape(str(path))}: {escape(view.id)}, {escape(view.classification)}")
