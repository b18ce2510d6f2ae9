"""`sovereign adapters technical-file` and `sign-technical-file`: write the draft, and sign the completed file."""

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import counted
from sovereign_pipeline.commands.terminal import (
    AdapterId,
    KeyOptions,
    officers_signer,
    out,
    with_key_options,
    write_new_file,
)


def adapters_technical_file(
    adapter_id: AdapterId, path: Annotated[Path, typer.Option("--out", help="The draft: a new file.")]
) -> None:
    """Write the draft of an adapter's technical file (Annex IV of the EU AI Act), filled from the record.

    The draft names who must write each fact that the system does not know. It has the adapter's level.
    """
    from sovereign_pipeline.audit.documents.model_card import UNWRITTEN
    from sovereign_pipeline.audit.evidence import draft_technical_file
    from sovereign_pipeline.record.catalog import find_adapter
    from sovereign_pipeline.record.database import open_registry
    from sovereign_pipeline.record.sealing import open_store

    settings = Settings.from_environment()
    registry = open_registry(settings)
    level = find_adapter(registry, adapter_id).classification
    draft = draft_technical_file(registry, open_store(settings, registry=registry), settings, adapter_id)
    write_new_file(path, draft)
    places = counted(draft.count(UNWRITTEN), "place")
    out.print(f"[green]✓[/] {escape(str(path))}: {escape(adapter_id)}, {escape(level)}; {places} for persons to write")
    out.print(f"Next, when it is complete: sovereign adapters sign-technical-file {escape(adapter_id)} FILE")


@with_key_options
def adapters_sign_technical_file(
    adapter_id: AdapterId,
    path: Annotated[Path, typer.Argument(help="The completed file.")],
    key: KeyOptions,
    signature: Annotated[
        Path | None, typer.Option("--out", help="The signature: a new file; default: FILE.sigstore.json.")
    ] = None,
) -> None:
    """Sign the completed technical file of an adapter. The signature is a file beside it.

    Several persons sign the same bytes, each into a file of their own. The program prints what your key signs.
    """
    from sovereign_pipeline.audit.documents.technical_file import sign_technical_file
    from sovereign_pipeline.record.catalog import find_adapter
    from sovereign_pipeline.record.database import open_registry
    from sovereign_pipeline.record.statements import SUFFIX

    settings = Settings.from_environment()
    adapter = find_adapter(open_registry(settings), adapter_id)
    stated = {"adapter": adapter_id, "classification": adapter.classification, "technical file": path}
    signer = officers_signer(settings, key, stated)
    target = signature or path.with_name(path.name + SUFFIX)
    write_new_file(target, sign_technical_file(adapter, path, signer).decode())
    out.print(f"[green]✓[/] {escape(str(target))}: the signature of {escape(str(path))}")
