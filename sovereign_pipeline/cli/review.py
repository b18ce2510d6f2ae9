"""`sovereign review`: open a blind review, print its links, serve its page, show its progress, and close it."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from sovereign_pipeline.base.pages import LOOPBACK, REVIEW_PORT
from sovereign_pipeline.cli.terminal import (
    Group,
    Home,
    KeyOptions,
    LineName,
    Result,
    officers_signer,
    out,
    port_option,
    print_done,
    print_rows,
    print_wrong,
    tell_progress,
)
from sovereign_pipeline.record.officers import People
from sovereign_pipeline.review.acts import find_last, signed_acts
from sovereign_pipeline.review.ballots import issue_another_link, link_url, progress
from sovereign_pipeline.review.closing import close, findings_in, read_log, rows_of
from sovereign_pipeline.review.plan import in_words, plan_of
from sovereign_pipeline.workplace import open_workplace

PageUrl = Annotated[str, typer.Option(help="URL under which operators reach the review page.")]
HERE = f"http://{LOOPBACK}:{REVIEW_PORT}"

review = Group(no_args_is_help=True, help="Blind reviews: people compare a candidate's answers with an opponent's.")


@review.command("open")
def review_open(
    home: Home,
    line: LineName,
    operators: Annotated[
        str, typer.Option(help="Names of the operators, separated by commas; default: as in the recipe.")
    ] = "",
    prompts: Annotated[Path | None, typer.Option(help="Prompt file to use instead of the held-out documents.")] = None,
    adapter: Annotated[
        str | None, typer.Option(help="The candidate; default: the line's current registered adapter.")
    ] = None,
    opponent: Annotated[
        str | None,
        typer.Option(
            help="The opponent: id of an adapter, or `base` for the base model. Default: the newest other "
            "adapter of the line that did not lose its review, or the base model if there is none."
        ),
    ] = None,
    url: PageUrl = HERE,
) -> Result:
    """Generate the answers of candidate and opponent, seal the plan, and print each operator's one-time link."""
    # loads the evaluation package
    from sovereign_pipeline.registry.registration import REGISTERED_ADAPTER
    from sovereign_pipeline.review.opening import ReviewRequest, open_review

    workplace = open_workplace(home.settings, line, tell_progress)
    names = tuple(name.strip() for name in operators.split(",") if name.strip())
    request = ReviewRequest(
        home.actor, REGISTERED_ADAPTER, operators=names, prompt_file=prompts, adapter_id=adapter, opponent=opponent
    )
    opened = open_review(home.registry, workplace, request)
    links = {name: link_url(url, token) for name, token in opened.links.items()}
    plan = opened.plan
    chosen = in_words(plan.opponent or plan.base_model, plan.opponent_choice)
    facts = {
        "review": opened.review,
        "adapter": plan.adapter,
        "opponent": plan.opponent or plan.base_model,
        "opponent_chosen": chosen,
        "ballots": plan.ballots,
        "seed_sha256": plan.seed_sha256,
        "act_key": plan.act_key,
        "links": links,
    }

    def show() -> None:
        print_done(
            f"{plan.line}: {plan.adapter} against {facts['opponent']}, {plan.pairs} pairs for "
            f"{len(plan.operators)} operators; the review can be closed after {plan.ballots} ballots"
        )
        out.print(f"  {escape(chosen)}")
        out.print(f"  sealed seed, SHA-256 {plan.seed_sha256}")
        out.print("  One-time links, shown once; only their hashes are stored:")
        for name, link in links.items():
            out.print(f"  {escape(name):<16} {escape(link)}")

    return Result(facts, show)


@review.command("link")
def review_link(
    home: Home,
    line: LineName,
    operator: Annotated[str, typer.Argument(help="Name of the operator, as in the recipe.")],
    url: PageUrl = HERE,
) -> None:
    """Print a new one-time link for an operator of the open review.

    The operator's earlier links become invalid, and devices that used them are signed out.
    """
    workplace = open_workplace(home.settings, line)
    out.print(escape(link_url(url, issue_another_link(home.registry, workplace, operator, home.actor))))


@review.command("serve")
def review_serve(home: Home, port: Annotated[int, port_option("Port of the page.")] = REVIEW_PORT) -> None:
    """Serve the review page on loopback, until Ctrl-C."""
    # loads FastAPI and uvicorn
    from sovereign_pipeline.review.page.app import serve

    serve(home.settings, home.registry, port, out.print)


@review.command("status")
def review_status(home: Home, line: LineName) -> Result:
    """Show how many ballots each operator has cast. The ratings are hidden until the review is closed.

    Exits with status 1 if ballots, sign-ins or the log were changed, and names the change.
    """
    store = open_workplace(home.settings, line).store
    found, closing = find_last(home.registry, line)
    contents = plan_of(store, found)
    pairs = {name: len(contents.asked(name)) for name in contents.plan.operators}
    people = People(home.settings)
    names, given = people.listed(), progress(home.registry, found, pairs)
    rows = [{**asdict(each), "operator": people.shown(each.operator, names)} for each in given]
    rows.sort(key=lambda row: str(row["operator"]))
    with home.registry.reading() as session:
        held = rows_of(session, found, read_log(session))
    findings = findings_in(held, contents, home.settings, signed_acts(home.settings, found.id))
    facts: dict[str, Any] = {
        "review": found.id,
        "line": line,
        "adapter": found.adapter_id,
        "opponent": found.opponent_id or contents.plan.base_model,
        "opponent_chosen": in_words(found.opponent_id or contents.plan.base_model, contents.plan.opponent_choice),
        "state": "open" if closing is None else "closed",
        "ballots": sum(row["ballots"] for row in rows),
        "ballots_to_close": found.ballots,
        "opened_at": found.opened_at.isoformat(timespec="seconds"),
        "closed_at": closing.closed_at.isoformat(timespec="seconds") if closing is not None else None,
        "operators": rows,
        "findings": findings,
    }

    def show() -> None:
        out.print(
            f"{line}: {facts['adapter']} against {facts['opponent']}, {facts['state']}, {facts['ballots']} of "
            f"{facts['ballots_to_close']} ballots"
        )
        out.print(f"  {escape(facts['opponent_chosen'])}")
        print_rows(rows, "Operators")
        for each in findings:
            print_wrong(each)

    return Result(facts, show, passed=not findings)


@review.command("close")
def review_close(
    home: Home,
    line: LineName,
    reason: Annotated[
        str | None, typer.Option(help="Reason for closing before the pre-registered number of ballots.")
    ] = None,
    *,
    key: KeyOptions,
) -> None:
    """Close the open review and reveal its seed. Exits with status 1 if ballots are missing.

    An officer whom the recipe names can close the review early, with --key and --reason. Prints the statement before
    the key signs it.
    """
    store = open_workplace(home.settings, line).store
    found, _ = find_last(home.registry, line)
    contents = plan_of(store, found)
    signer = None
    if key.are_given:
        stated = {
            "line": line,
            "adapter": found.adapter_id,
            "classification": contents.classification,
            "close": f"before {found.ballots} ballots are cast",
            "reason": reason or "",
        }
        signer = officers_signer(home.settings, key, stated)
    closing = close(home.registry, home.settings, found, contents, home.actor, signer, reason)
    print_done(f"{line}: closed with {closing.ballots} of {found.ballots} ballots; seed {closing.seed}")
    out.print("  While `make up` runs, a sensor materializes blind_review. You can also do so in the Dagster UI.")
