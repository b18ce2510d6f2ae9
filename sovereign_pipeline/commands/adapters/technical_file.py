"""`sovereign adapters technical-file` and `sign-technical-file`: the draft, and what a person signs once it is whole.

What belongs here: options and printing. What does not: what the file says (`audit/documents/technical_file.py`), and
what a signature is (`release/technical_files.py`). The domain is imported inside functions: it loads the whole chain.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from sovereign_pipeline.artifacts.hashing import short
from sovereign_pipeline.commands.terminal import (
    AdapterId,
    KeyOptions,
    officers_signer,
    out,
    print_rows,
    with_key_options,
    write_new_file,
)
from sovereign_pipeline.settings import Settings
from sovereign_pipeline.wording import counted

if TYPE_CHECKING:
    from sovereign_pipeline.ledger.database import Registry


def adapters_technical_file(
    adapter_id: AdapterId, path: Annotated[Path, typer.Option("--out", help="The draft: a new file.")]
) -> None:
    """Write the draft of an adapter's technical file (Annex IV of the EU AI Act), filled from the record.

    Where something is not known to this system, the draft says who is to write it. It has the adapter's level.
    """
    from sovereign_pipeline.audit.evidence import draft_technical_file
    from sovereign_pipeline.ledger.catalog import find_adapter
    from sovereign_pipeline.ledger.database import open_registry
    from sovereign_pipeline.ledger.signed_artifacts.sealing import open_store
    from sovereign_pipeline.release.technical_files import PLACE

    settings = Settings.from_environment()
    registry = open_registry(settings)
    level = find_adapter(registry, adapter_id).classification
    draft = draft_technical_file(registry, open_store(settings, registry=registry), settings, adapter_id)
    write_new_file(path, draft)
    places = counted(len(PLACE.findall(draft)), "place")
    out.print(f"[green]✓[/] {escape(str(path))}: {escape(adapter_id)}, {escape(level)}; {places} for persons to write")
    out.print(
        f"Next, when it is complete: sovereign adapters sign-technical-file {escape(adapter_id)} FILE --as CAPACITY"
    )


@with_key_options
def adapters_sign_technical_file(
    adapter_id: AdapterId,
    path: Annotated[Path, typer.Argument(help="The completed file.")],
    capacity: Annotated[
        str, typer.Option("--as", help="legal, owner, operations or security: in which capacity you sign.")
    ],
    key: KeyOptions,
    incomplete: Annotated[
        bool, typer.Option("--incomplete", help="Sign it though places are not written; the signature says how many.")
    ] = False,
) -> None:
    """Sign the completed technical file of an adapter, in a capacity that the trust root gives you.

    Several persons sign the same bytes. The file is kept, so write no text of a document in it. What you state is
    printed before your key signs it.
    """
    from sovereign_pipeline.ledger.catalog import find_adapter
    from sovereign_pipeline.ledger.database import open_registry
    from sovereign_pipeline.release.technical_files import CAPACITIES, read_completed, right_of, sign_technical_file

    settings = Settings.from_environment()
    registry = open_registry(settings)
    adapter = find_adapter(registry, adapter_id)
    right_of(capacity)
    file = read_completed(path, adapter, incomplete=incomplete)
    stated = {
        "adapter": adapter_id,
        "classification": adapter.classification,
        "technical file": path,
        "SHA-256": file.sha256,
        "places not written": file.unwritten,
        "signed as": CAPACITIES[capacity],
    }
    signer = officers_signer(settings, key, stated)
    signed = sign_technical_file(registry, adapter, file, capacity, signer)
    out.print(f"[green]✓[/] {escape(adapter_id)}: technical file {short(file.sha256)} signed as {CAPACITIES[capacity]}")
    if signed.missing:
        out.print(f"Nobody has signed it yet as {', '.join(CAPACITIES[each] for each in signed.missing)}")


def technical_files_of(registry: "Registry", adapter_id: str) -> list[dict[str, Any]]:
    """The technical files of an adapter that somebody signed: by whom in which capacity, and in which by nobody."""
    from sovereign_pipeline.ledger.catalog import find_adapter
    from sovereign_pipeline.release.technical_files import signed_files

    adapter = find_adapter(registry, adapter_id)
    with registry.reading() as session:
        return [
            {
                "sha256": file.sha256,
                "unwritten": file.unwritten,
                "signatures": [
                    {"capacity": each.capacity, "person": each.person, "at": each.at} for each in file.signatures
                ],
                "missing": file.missing,
            }
            for file in signed_files(session, registry.settings, adapter)
        ]


def print_technical_files(files: Sequence[Mapping[str, Any]]) -> None:
    """A line for each signature, and for each capacity in which there is none."""
    rows = [
        {
            "file": short(file["sha256"]),
            "places not written": file["unwritten"],
            "capacity": each["capacity"],
            "signed by": each.get("person", "nobody"),
            "at": each.get("at"),
        }
        for file in files
        for each in [*file["signatures"], *({"capacity": missing} for missing in file["missing"])]
    ]
    print_rows(rows, False, "Signed technical files")
