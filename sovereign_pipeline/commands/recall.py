"""`sovereign recall`: which adapters hold a document, source, dataset or base model, and recalling them."""

from typing import Annotated, Any

import typer
from rich.markup import escape

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import and_more, counted
from sovereign_pipeline.commands.terminal import (
    AsJson,
    KeyOptions,
    err,
    officers_signer,
    only,
    out,
    print_json,
    print_rows,
    tell_progress,
    with_key_options,
)
from sovereign_pipeline.record.officers import officer_shown, trust_root_if_any

HELP = """Name the adapters that hold a document, a source, a dataset or a base model; with --open, recall them.

An adapter holds what its weights were trained on, also by way of a parent adapter or of a base model that was made
here. A held-out document is in no weights. A recall holds for each adapter until it is retired or waived.
"""

recall = typer.Typer(help=HELP)


@recall.callback(invoke_without_command=True, help=HELP)
@with_key_options
def recall_ask(
    context: typer.Context,
    document: Annotated[str | None, typer.Option(help="Id of a document, as its row has it.")] = None,
    source: Annotated[
        str | None, typer.Option(help="Name of a source; with --document, the source that the document is of.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Digest of a dataset, or its first digits.")] = None,
    base_model: Annotated[
        str | None, typer.Option("--base-model", help="Digest over a base model's files, or its first digits.")
    ] = None,
    opens: Annotated[bool, typer.Option("--open", help="Open a recall of these adapters.")] = False,
    reason: Annotated[str | None, typer.Option(help="With --open: why.")] = None,
    *,
    key: KeyOptions,
    rebuild: Annotated[
        bool, typer.Option("--rebuild", help="Read the datasets of every adapter again into the index.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Name the adapters that hold something; with --open, recall them."""
    if context.invoked_subcommand is not None:
        return
    from sovereign_pipeline.record.database import open_registry
    from sovereign_pipeline.record.officers import officers_words
    from sovereign_pipeline.release.recall import Question, ask, assert_holders, open_recall

    question = Question(document, source, dataset, base_model)
    if rebuild:
        if question.given or opens:
            raise InputError("--rebuild stands alone.", "Rebuild the index first, then ask.")
        _rebuild(as_json)
        return
    if opens != (reason is not None) or (not opens and key.are_given):
        raise InputError("--open takes --reason and a key, and they take --open.", "Give all three, or none.")
    settings = Settings.from_environment()
    registry = open_registry(settings)
    answer = ask(registry, question)
    opened = None
    if reason is not None:
        assert_holders(answer)
        named = [each.adapter for each in answer.holders]
        asked = {
            "recall": str(answer.question),
            "adapters": and_more(named),
            "reason": officers_words(reason, "A recall"),
        }
        signer = officers_signer(settings, key, asked, err if as_json else out)
        opened = open_recall(registry, answer, signer, reason)
    rows = [vars(each) for each in answer.holders]
    if as_json:
        print_json({"asked": answer.question.given, "recall": opened.id if opened else None, "adapters": rows})
        return
    if not rows:
        out.print(f"No registered adapter holds {escape(str(answer.question))}.")
        return
    print_rows([_shown(each) for each in rows], False, f"Adapters that hold {escape(str(answer.question))}")
    if opened is not None:
        out.print(f"[green]✓[/] {opened.id}: open for {counted(len(rows), 'adapter')}")


@recall.command("list")
def recall_list(as_json: AsJson = False) -> None:
    """List every recall, with the adapters that it still holds for."""
    from sovereign_pipeline.record.database import open_registry
    from sovereign_pipeline.record.tables import row_as_dict
    from sovereign_pipeline.release.recall import list_recalls, question_of

    settings = Settings.from_environment()
    with open_registry(settings).reading() as session:
        found = list(list_recalls(session, settings))
    if as_json:
        print_json([{**row_as_dict(each), "holds_for": adapters} for each, adapters in found])
        return
    trust = trust_root_if_any(settings)
    rows = [
        {
            "id": each.id,
            "recalled": str(question_of(each)),
            "reason": each.reason,
            "officer": officer_shown(trust, each.officer),
            "opened": each.opened_at.date().isoformat(),
            "holds for": and_more(adapters) or "no adapter",
        }
        for each, adapters in found
    ]
    print_rows(rows, False, "Recalls")


@recall.command("waive")
@with_key_options
def recall_waive(
    recall_id: Annotated[str, typer.Argument(help="Id of the recall, such as recall-1.")],
    adapter: Annotated[str, typer.Argument(help="Id of the adapter for which it shall no longer hold.")],
    reason: Annotated[str, typer.Option(help="Why the adapter may be used all the same.")],
    key: KeyOptions,
) -> None:
    """Waive a recall for one adapter, as an officer. What you waive is printed before your key signs it.

    It holds on for every other adapter. Ends 1 when it was waived already.
    """
    from sovereign_pipeline.record.database import open_registry
    from sovereign_pipeline.record.officers import officers_words
    from sovereign_pipeline.release.recall import question_of, recall_to_waive, waive_recall

    settings = Settings.from_environment()
    registry = open_registry(settings)
    with registry.reading() as session:
        recalled = str(question_of(recall_to_waive(session, settings, recall_id, adapter)))
    asked = {"waive": recall_id, "recalled": recalled, "adapter": adapter, "reason": officers_words(reason, "A waiver")}
    waive_recall(registry, recall_id, adapter, officers_signer(settings, key, asked), reason)
    out.print(f"[green]✓[/] {escape(recall_id)}: waived for {escape(adapter)}")


def _rebuild(as_json: bool) -> None:
    from sovereign_pipeline.record.database import open_registry
    from sovereign_pipeline.record.sealing import open_store
    from sovereign_pipeline.release.recall_index import rebuild

    settings = Settings.from_environment()
    done = rebuild(open_registry(settings), open_store(settings), tell_progress)
    if as_json:
        print_json(vars(done))
        return
    held = f"{counted(done.documents, 'document')} in {counted(done.datasets, 'dataset')}"
    out.print(f"[green]✓[/] {counted(done.adapters, 'adapter')} hold {held}")
    if done.differing:
        out.print(f"The index said something else, or nothing, about {and_more(done.differing)}.")


def _shown(holder: dict[str, Any]) -> dict[str, Any]:
    return {**only(holder, "adapter", "line", "state"), "holds it": "itself" if holder["directly"] else "by its origin"}
