"""`sovereign audit people`: whose commitments stand in the ledger, and forgetting a person."""

from typing import Annotated

import typer

from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.commands.terminal import AsJson, out, print_rows

people = typer.Typer(no_args_is_help=True, help="Names of persons in the ledger: who is meant, and forgetting one.")


@people.command("list")
def people_list(as_json: AsJson = False) -> None:
    """List the persons that this home knows, with what stands for each in ledger, registry and reviews."""
    from sovereign_pipeline.record.people import People

    listed = People(Settings.from_environment()).listed()
    print_rows([{"name": name, "stands for them": person} for name, person in listed.items()], as_json, "Persons")


@people.command("forget")
def people_forget(name: Annotated[str, typer.Argument(help="The name, as the list has it.")]) -> None:
    """Erase a name with its random bytes. The ledger still verifies, and nobody can tell who is meant in it.

    Ends 1 for somebody who takes part in an open review. Copies of the file that were made elsewhere are not reached.
    """
    from sovereign_pipeline.record.database import open_registry
    from sovereign_pipeline.record.people import People
    from sovereign_pipeline.record.sealing import open_store
    from sovereign_pipeline.review.ballots import assert_in_no_open_review

    settings = Settings.from_environment()
    registry, store = open_registry(settings), open_store(settings)
    person = People(settings).forget(name, lambda each: assert_in_no_open_review(registry, store, each))
    out.print(f"[green]✓[/] forgotten; {person} stands for nobody now")
