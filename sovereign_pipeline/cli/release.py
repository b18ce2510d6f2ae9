"""Officers' commands of `sovereign adapters` and `sovereign recall`: requests, approvals, rollback, trial, recall."""

import datetime
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from sovereign_pipeline.base.errors import InputError, IntegrityError, SovereignError
from sovereign_pipeline.base.files import short
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import and_more, counted
from sovereign_pipeline.cli.adapters import adapters, print_urgent, with_marks
from sovereign_pipeline.cli.terminal import (
    AdapterId,
    AsJson,
    Group,
    Home,
    KeyOptions,
    LineName,
    OfLine,
    Reason,
    Result,
    err,
    mark_demonstration,
    moment,
    officers_signer,
    only,
    out,
    print_done,
    print_facts,
    print_rows,
    tell_progress,
    write_new_file,
)
from sovereign_pipeline.record.catalog import (
    ENDED,
    URGENT,
    adapters_in_brief,
    find_adapter,
    in_production,
    states,
    urgent_promotions,
)
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.officers import officer_shown, officers_words, trust_root, trust_root_if_any
from sovereign_pipeline.record.statements import SUFFIX
from sovereign_pipeline.record.tables import row_as_dict
from sovereign_pipeline.record.tree import RegistryDamaged
from sovereign_pipeline.release.recall import (
    Holder,
    Question,
    answering_at,
    ask,
    assert_holders,
    list_recalls,
    open_recall,
    question_of,
    recall_to_waive,
    waive_recall,
)

if TYPE_CHECKING:
    from sovereign_pipeline.record.stage import Workplace
    from sovereign_pipeline.release.cadence import Due
    from sovereign_pipeline.release.purge import Unused
    from sovereign_pipeline.release.standing import Decision, Standing
    from sovereign_pipeline.serving.rollout.flag import Flag


@adapters.command("technical-file")
def adapters_technical_file(
    home: Home, adapter_id: AdapterId, path: Annotated[Path, typer.Option("--out", help="New file for the draft.")]
) -> None:
    """Write a draft of an adapter's technical file (Annex IV of the EU AI Act), filled in from the record.

    For each missing fact, the draft says who must add it. The draft has the adapter's classification level.
    """
    from sovereign_pipeline.evidence.documents import UNWRITTEN
    from sovereign_pipeline.evidence.package import draft_technical_file

    level = find_adapter(home.registry, adapter_id).classification
    draft = draft_technical_file(home.registry, home.store, home.settings, adapter_id)
    write_new_file(path, draft)
    places = counted(draft.count(UNWRITTEN), "place")
    print_done(f"{path}: {adapter_id}, {level}; {places} for people to fill in")
    out.print(f"Next, when it is complete: sovereign adapters sign-technical-file {escape(adapter_id)} FILE")


@adapters.command("sign-technical-file")
def adapters_sign_technical_file(
    home: Home,
    adapter_id: AdapterId,
    path: Annotated[Path, typer.Argument(help="The completed file.")],
    key: KeyOptions,
    signature: Annotated[
        Path | None, typer.Option("--out", help="New file for the signature; default: FILE.sigstore.json.")
    ] = None,
) -> None:
    """Sign the completed technical file of an adapter. The signature is written to a separate file.

    Several persons can sign the same technical file, each with a separate signature file. Prints the statement before
    your key signs it.
    """
    from sovereign_pipeline.evidence.documents import sign_technical_file

    adapter = find_adapter(home.registry, adapter_id)
    stated = {"adapter": adapter_id, "classification": adapter.classification, "technical file": path}
    signer = officers_signer(home.settings, key, stated)
    target = signature or path.with_name(path.name + SUFFIX)
    write_new_file(target, sign_technical_file(adapter, path, signer).decode())
    print_done(f"{target}: the signature of {path}")


@adapters.command("rollback")
def adapters_rollback(
    home: Home,
    line: LineName,
    reason: Reason,
    to: Annotated[
        str | None,
        typer.Option(
            help="Adapter to roll back to. Default: withdraw the staged adapter; if none, go back to the previous one."
        ),
    ] = None,
    *,
    key: KeyOptions,
) -> None:
    """Roll back a line immediately, even while the registry is down. The ledger is updated once the registry is
    reachable.

    Without --to, the staged adapter is withdrawn if it answers users. Otherwise the previous adapter in production
    answers again.
    """
    from sovereign_pipeline.serving.rollout.rollback import rollback, way_back

    _, shown = way_back(home.settings, line, to, home.trust)
    question = {name: shown.request[name] for name in ("adapter", "transition", "from", "to")} | {"reason": reason}
    signer = officers_signer(home.settings, key, question)
    _print_flag(rollback(home.settings, line, to, signer, reason, shown))
    _let_ledger_follow(home, line)


@adapters.command("hold")
def adapters_hold(home: Home, line: LineName) -> Result:
    """Compare a line's staged adapter with the adapter in production, using the counts of the gateways on this machine.

    Exits with status 1 if the staged adapter is broken, or worse by more than a margin.
    """
    from sovereign_pipeline.serving.rollout.flag import current_flag
    from sovereign_pipeline.serving.rollout.hold import state_of
    from sovereign_pipeline.serving.rollout.telemetry import counts_directory

    flag = current_flag(home.settings, line, home.trust)
    state = state_of(home.settings, counts_directory(home.settings), flag, home.institution)
    if state is None:
        facts = {"line": line, "outcome": "none", "because": flag.in_words()}
    else:
        facts = {
            "line": line,
            "staged": state.staged,
            "outcome": state.outcome,
            "because": state.because,
            "expected": state.expected,
            "days": f"{state.days:.1f}",
            "users": f"{state.users[0]} staged, {state.users[1]} production",
            "answers": f"{state.answers[0]} staged, {state.answers[1]} production",
            "feedback": f"of {state.rated[0]} answers staged, {state.rated[1]} production",
            "severity 1": str(state.severe),
            **{each.measure.name: each.in_words().partition(": ")[2] for each in state.compared},
        }
    return Result(facts, lambda: print_facts(facts), passed=state is None or state.outcome != "abort")


@adapters.command("accept-hold")
def adapters_accept_hold(home: Home, adapter_id: AdapterId, reason: Reason, key: KeyOptions) -> None:
    """Accept an inconclusive trial of a staged adapter, so that the adapter may be promoted. One officer's signature
    suffices.

    Prints the acceptance before your key signs it.
    """
    from sovereign_pipeline.release.trial import accept_hold, hold_to_accept

    adapter = find_adapter(home.registry, adapter_id)
    workplace = _caught_up(home, adapter.line)
    with home.registry.reading() as session:
        incumbent = in_production(session, adapter.line)
        shown = hold_to_accept(session, home.settings, home.trust, adapter, incumbent).signed
    judged = shown.judgement
    question = {
        "adapter": adapter_id,
        "classification": adapter.classification,
        "compared with": incumbent,
        "hold": f"{judged.outcome}: {judged.because}",
        "answers": f"{judged.answers[0]} staged, {judged.answers[1]} production",
        "severity 1": judged.severe,
        "accept because": reason,
    }
    signer = officers_signer(home.settings, key, question)
    accept_hold(home.registry, workplace, signer, adapter_id, reason, shown.sha256)
    print_done(f"{adapter_id}: the inconclusive trial is accepted")


def let_flag_follow(registry: Registry, workplace: "Workplace") -> None:
    """After a transition, update a line's flag to the adapter states in the ledger. A line that never had a staged or
    production adapter has no flag."""
    from sovereign_pipeline.serving.rollout.flag import sequences
    from sovereign_pipeline.serving.rollout.publishing import follow

    line = workplace.line.line
    with registry.reading() as session:
        is_used = bool({"staged", "production"} & {*states(session, line).values()})
    if is_used or sequences(workplace.settings, line):
        flag, is_new = follow(registry, workplace)
        if is_new:
            _print_flag(flag)


def let_ledger_catch_up(registry: Registry, workplace: "Workplace") -> None:
    """Before an officer's decision, log the changes of the line's flag that were made while the registry was down."""
    from sovereign_pipeline.serving.rollout.flag import changing, sequences
    from sovereign_pipeline.serving.rollout.publishing import catch_up

    settings, line = workplace.settings, workplace.line.line
    if sequences(settings, line):
        with changing(settings, line):
            catch_up(registry, workplace, trust_root(settings))


def _let_ledger_follow(home: Home, line: str) -> None:
    """After a rollback in a line's flag, log the transition if the registry is reachable. Otherwise print when it will
    be logged. Gateways follow the flag in either case."""
    from sovereign_pipeline.serving.rollout.publishing import follow
    from sovereign_pipeline.workplace import open_workplace

    try:
        follow(home.registry, open_workplace(home.settings, line, tell_progress))
    except (SovereignError, OSError) as error:
        why = error.message if isinstance(error, SovereignError) else type(error).__name__
        err.print(f"[yellow]The ledger is not updated yet[/]: {escape(why)}")
        err.print(
            f"The ledger is updated at the next decision about {escape(line)}, or when the line's `production_adapter` "
            "is materialized in Dagster."
        )
    else:
        print_done("the ledger is updated")


def _print_flag(flag: "Flag") -> None:
    print_done(f"flag of {flag.line}, change {flag.sequence}: {flag.in_words()}")


RequestId = Annotated[str, typer.Argument(help="The request, or the first digits of its id.")]


@adapters.command("request")
def adapters_request(
    home: Home,
    adapter_id: AdapterId,
    transition: Annotated[
        str, typer.Argument(help="One of: approve, stage, unstage, promote, roll_back, reject, recall, retire.")
    ],
    reason: Reason,
    urgent: Annotated[
        bool,
        typer.Option(
            "--urgent", help="With promote: skip the trial. Pages then mark the adapter as urgently promoted."
        ),
    ] = False,
    *,
    key: KeyOptions,
) -> None:
    """Request a change of an adapter's state. Prints the request before your key signs it.

    If the institution's rules require no further approval, the change is made immediately.
    """
    if urgent and transition != "promote":
        raise InputError(f"--urgent needs promote, not {transition}.", "Leave --urgent out.")
    _request(home, adapter_id, URGENT if urgent else transition, reason, key)


@adapters.command("retire")
def adapters_retire(home: Home, adapter_id: AdapterId, reason: Reason, key: KeyOptions) -> None:
    """Retire an adapter. A retired adapter is not served, compared or trained further. Its records remain.

    Retiring an adapter in production needs as many approvals as a promotion.
    """
    _request(home, adapter_id, "retire", reason, key)


_IN_STATUS = ("id", "state", "classification", "recalls", "known_issues", "promoted_urgently")


@adapters.command("status")
def adapters_status(
    home: Home,
    line: OfLine = None,
    closed: Annotated[bool, typer.Option("--closed", help="Also show closed requests, with the reason.")] = False,
    disk: Annotated[
        bool, typer.Option("--disk", help="Also show the disk space of unused weights. This reads every manifest.")
    ] = False,
) -> Result:
    """Show what needs an officer's decision: each adapter's state and review date, and the open requests.

    If a request is not in the ledger, exits with status 1 and names the request's line. All other lines are still
    shown.
    """
    from sovereign_pipeline.release.cadence import due_reviews
    from sovereign_pipeline.release.purge import unused
    from sovereign_pipeline.release.standing import all_standings

    registry, trust = home.registry, trust_root_if_any(home.settings)
    found: list[Standing] = []
    refused: dict[str, IntegrityError] = {}
    if trust is not None:
        with registry.reading() as session:
            found, refused = all_standings(session, home.settings, trust, line)
    brief = with_marks(registry, adapters_in_brief(registry, line))
    reviews = {
        each.adapter: each
        for each in due_reviews(registry, home.settings, datetime.datetime.now(datetime.UTC).date(), line)
    }
    runs = _runs_of(home.settings, [*reviews.values()])
    idle = {each.adapter: each for each in unused(registry, home.store, line, tell_progress)} if disk else {}
    requests = [_facts(each) for each in found]
    data = {
        "adapters": [only(row, *_IN_STATUS) for row in brief],
        "requests": requests,
        "reviews": [{**vars(each), "run": runs.get(each.line)} for each in reviews.values()],
        "unused": [*idle.values()],
    }

    def show() -> None:
        if trust is not None:
            mark_demonstration(trust)
        print_rows([_status_row(row, reviews, runs, idle) for row in brief], "Adapters")
        print_urgent(brief)
        shown = [
            {**each, "request": short(each["request"]), "approved_by": ", ".join(each["approved_by"])}
            for each in requests
            if closed or each["ended"] is None
        ]
        print_rows(shown, "Requests" if closed else "Open requests")

    messages = " ".join(f"Line {each}: {error.message}" for each, error in refused.items())
    return Result(data, show, errors=[RegistryDamaged(messages)] if refused else ())


def _status_row(
    row: Mapping[str, Any], reviews: "Mapping[str, Due]", runs: Mapping[str, str | None], idle: "Mapping[str, Unused]"
) -> dict[str, Any]:
    due, unused = reviews.get(row["id"]), idle.get(row["id"])
    notes = [f"recalled by {each['id']}" for each in row["recalls"]]
    notes += [counted(len(row["known_issues"]), "known issue")] if row["known_issues"] else []
    if due is not None:
        notes += [f"{each.event}: {each.what}" for each in due.causes]
        notes += [f"run: {runs.get(due.line)}"] if runs.get(due.line) else []
        notes += [] if due.has_recipe else ["no valid recipe"]
    if unused is not None:
        remedy = f"needed by {unused.needed_by}" if unused.needed_by else "purge"
        if unused.needed_by is None and unused.state not in ENDED:
            remedy = "retire, then purge"
        notes.append(f"{unused.bytes:,} bytes unused: {remedy}")
    review = f"{due.on.isoformat()}{'' if due.state == 'not due' else f' {due.state}'}" if due is not None else None
    return {
        "adapter": row["id"],
        "state": row["state"],
        "level": row["classification"],
        "review by": review,
        "note": "; ".join(notes) or None,
    }


def _runs_of(settings: Settings, reviews: "Sequence[Due]") -> dict[str, str | None]:
    """Return a mapping of line to the state of the run that the line's review requested. Dagster is imported only if a
    review requested a run."""
    if all(due.key is None for due in reviews):
        return {}
    from sovereign_pipeline.dagster.jobs import fate_of, run_of
    from sovereign_pipeline.dagster.resources import open_instance

    instance = open_instance(settings)
    return {due.line: fate_of(run_of(instance, due)) for due in reviews}


@adapters.command("approve")
def adapters_approve(home: Home, request_id: RequestId, key: KeyOptions) -> None:
    """Approve a request. Prints the approval before your key signs it.

    The change is made with the last approval that the rules require.
    """
    _decide(home, request_id, "approve", "", key)


@adapters.command("withdraw")
def adapters_withdraw(home: Home, request_id: RequestId, key: KeyOptions) -> None:
    """Withdraw your approval or your request before the change is made."""
    _decide(home, request_id, "withdraw", "", key)


@adapters.command("reject")
def adapters_reject(home: Home, request_id: RequestId, reason: Reason, key: KeyOptions) -> None:
    """Reject a request. It can then no longer be approved."""
    _decide(home, request_id, "reject", reason, key)


@adapters.command("history")
def adapters_history(home: Home, adapter_id: AdapterId) -> Result:
    """Show every change of an adapter's state: who requested it, who approved it, and on which evidence.

    Exits with status 1 and names the change if its request, approvals or signatures are not valid.
    """
    from sovereign_pipeline.release.standing import history_of

    adapter = find_adapter(home.registry, adapter_id)
    with home.registry.reading() as session:
        rows = history_of(session, home.registry.settings, home.trust, adapter.line, adapter_id)

    def show() -> None:
        mark_demonstration(home.trust)
        shown = [
            {
                "at": each["at"][:16].replace("T", " "),
                "transition": each["transition"],
                "state": each["to"],
                "requested by": each["requested_by"],
                "approved by": ", ".join(each["approved_by"]),
                "reason": each["reason"],
            }
            for each in rows
        ]
        print_rows(shown, f"History of {adapter_id}")

    return Result(rows, show)


@adapters.command("production")
def adapters_production(
    home: Home,
    line: LineName,
    at: Annotated[str | None, typer.Option(help="A UTC date or time, such as 2027-03-14 or 2027-03-14T09:30.")] = None,
) -> Result:
    """Show which adapter in production answers for a line, now or at an earlier time. A date means the end of that day.

    While a recall applies to the adapter in production, no adapter answers.
    """
    asked = moment(at) if at is not None else None
    with home.registry.reading() as session:
        step, urgent = answering_at(session, home.settings, line, asked), urgent_promotions(session)
    found = step.production if step is not None else None
    recalls = list(step.recalls.get(found, ())) if step is not None and found is not None else []
    facts = {
        "line": line,
        "at": asked.isoformat() if asked else None,
        "adapter": found if not recalls else None,
        **({"recalled": found, "recalls": recalls} if recalls else {}),
        "promoted_urgently": urgent[found].isoformat() if found in urgent else None,
    }

    def show() -> None:
        is_or_was = "was" if asked else "is"
        if recalls:
            out.print(
                f"Line {line}: no adapter answered. {found} {is_or_was} in production, but under recall: "
                f"{and_more(recalls)}."
            )
        else:
            out.print(found or f"Line {line}: no adapter {is_or_was} in production.")
        print_urgent([{"id": found, **facts}])

    return Result(facts, show)


@adapters.command("diff")
def adapters_diff(
    home: Home, adapter_id: AdapterId, other: Annotated[str, typer.Argument(help="Id of the other adapter.")]
) -> Result:
    """Show how two adapters differ in data, base model, method, libraries and metrics."""
    from sovereign_pipeline.release.standing import differences

    found = differences(home.registry, adapter_id, other)
    rows = [{"fact": name, adapter_id: _shown(one), other: _shown(two)} for name, (one, two) in found.items()]
    return Result(
        {name: {adapter_id: one, other: two} for name, (one, two) in found.items()},
        lambda: print_rows(rows, f"{adapter_id} and {other}"),
    )


def _request(home: Home, adapter_id: str, transition: str, reason: str, key: KeyOptions) -> None:
    from sovereign_pipeline.release.requests import propose, request

    workplace = _caught_up(home, find_adapter(home.registry, adapter_id).line)
    now = datetime.datetime.now(datetime.UTC)
    proposal = propose(home.registry, workplace, adapter_id, transition, reason, now)
    signer = officers_signer(home.settings, key, _question(proposal.predicate))
    _conclude(home, workplace, request(home.registry, workplace, signer, proposal))


def _decide(home: Home, request_id: str, decision: "Decision", reason: str, key: KeyOptions) -> None:
    from sovereign_pipeline.release.requests import decide, find_request
    from sovereign_pipeline.release.standing import standing_of

    with home.registry.reading() as session:
        standing = standing_of(session, home.settings, home.trust, find_request(session, request_id))
    workplace = _caught_up(home, standing.request.line)
    asked = _question({"requested by": standing.requester.person, **standing.predicate})
    signer = officers_signer(home.settings, key, asked)
    _conclude(home, workplace, decide(home.registry, workplace, standing.request.id, decision, signer, reason))


def _caught_up(home: Home, line: str) -> "Workplace":
    """Open a line's workplace, and log changes of its flag that were made while the registry was down."""
    from sovereign_pipeline.workplace import open_workplace

    workplace = open_workplace(home.settings, line, tell_progress)
    let_ledger_catch_up(home.registry, workplace)
    return workplace


def _question(predicate: Mapping[str, Any]) -> dict[str, Any]:
    evidence = predicate["evidence"]
    facts = {name: value for name, value in predicate.items() if name not in ("evidence", "policy")}
    facts |= {f"evidence: {name}": _shown(value) for name, value in evidence.items()}
    facts |= {f"rules: {name}": _shown(value) for name, value in predicate["policy"].items()}
    return {name: "–" if value is None else value for name, value in facts.items()}


def _conclude(home: Home, workplace: "Workplace", standing: "Standing") -> None:
    """Print a request's state. If the change was made, update the line's flag."""
    predicate, row = standing.predicate, standing.request
    asked = f"{row.adapter_id}: {predicate['transition']} ({predicate['from']} → {predicate['to']})"
    if standing.ended is not None:
        print_done(f"{asked}: {standing.ended}")
    else:
        print_done(f"{asked}: {len(standing.approvals)} of {standing.needed} approvals; request {row.id[:12]}")
        out.print(f"Next: [bold]sovereign adapters approve {row.id[:12]} --key FILE[/], by another officer")
    if standing.is_made:
        let_flag_follow(home.registry, workplace)


def _facts(standing: "Standing") -> dict[str, Any]:
    predicate = standing.predicate
    return {
        "request": standing.request.id,
        "adapter": standing.request.adapter_id,
        "transition": predicate["transition"],
        "requested_by": standing.requester.person,
        "approved_by": [each.person for each in standing.approvals],
        "needed": standing.needed,
        "expires": predicate["expires"],
        "ended": standing.ended,
    }


def _shown(value: Any) -> Any:
    if isinstance(value, str) and len(value) == 64:
        return short(value)
    if isinstance(value, list):
        return ", ".join(str(_shown(each)) for each in value) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{name}: {_shown(each)}" for name, each in value.items() if each is not None)
    return value


HELP = """List the adapters trained on a document, a source, a dataset or a base model. With --open, recall them.

An adapter is also listed if its parent adapter, or a base model that was tuned here, was trained on
this content. No adapter is listed for a held-out document, because adapters are not trained on it. A recall applies to
an adapter until the adapter is retired or the recall is waived for the adapter.
"""

recall = Group(help=HELP)


@recall.callback(invoke_without_command=True, help=HELP)
def recall_ask(
    home: Home,
    context: typer.Context,
    document: Annotated[str | None, typer.Option(help="Id of a document, as in the source's row.")] = None,
    source: Annotated[
        str | None, typer.Option(help="Name of a source. With --document: the source of that document.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(help="Digest of a dataset, or its first digits.")] = None,
    base_model: Annotated[
        str | None, typer.Option("--base-model", help="Digest of a base model's files, or its first digits.")
    ] = None,
    opens: Annotated[bool, typer.Option("--open", help="Open a recall of these adapters.")] = False,
    reason: Annotated[str | None, typer.Option(help="With --open: reason for the recall.")] = None,
    yes: Annotated[
        bool, typer.Option("--yes", help="With --open: do not ask whether adapters that answer now may be withdrawn.")
    ] = False,
    *,
    key: KeyOptions,
    as_json: AsJson = False,
) -> Result | None:
    """List the adapters that were trained on the selected content. With --open, recall these adapters."""
    if context.invoked_subcommand is not None:
        return None

    question = Question(document, source, dataset, base_model)
    if yes and not opens:
        raise InputError("--yes needs --open.", "Leave --yes out, or add --open.")
    if opens != (reason is not None) or (not opens and key.are_given):
        raise InputError("--open, --reason and a key must be given together.", "Give all three or none.")
    answer = ask(home.registry, question)
    opened = None
    if reason is not None:
        assert_holders(answer)
        dark = [each for each in answer.holders if each.state in ("production", "staged")]
        asked = {
            "recall": str(answer.question),
            "adapters": and_more(each.adapter for each in answer.holders),
            "goes dark": and_more(f"{each.line} ({each.adapter}, {each.state})" for each in dark) or "no line",
            "reason": officers_words(reason, "A recall"),
        }
        if dark and not yes:
            _ask_before_dark(dark)
        signer = officers_signer(home.settings, key, asked, err if as_json else out)
        opened = open_recall(home.registry, answer, signer, reason)
    rows = [vars(each) for each in answer.holders]
    facts: dict[str, Any] = {"asked": answer.question.given, "recall": opened.id if opened else None, "adapters": rows}
    facts |= {"also": answer.also} if answer.also else {}

    def show() -> None:
        if answer.also:
            out.print(f"[red]Also search for[/] {escape(and_more(answer.also))}: the same id in another form.")
        if not rows:
            out.print(f"No registered adapter was trained on {escape(str(answer.question))}.")
            return
        print_rows(
            [_shown_recall(each) for each in rows], f"Adapters that were trained on {escape(str(answer.question))}"
        )
        if opened is not None:
            print_done(f"{opened.id}: open for {counted(len(rows), 'adapter')}")

    return Result(facts, show)


def _ask_before_dark(dark: Sequence[Holder]) -> None:
    """Ask the officer whether the recall may withdraw staged adapters and adapters in production. Raises InputError if
    the officer declines, or if standard input is not a terminal."""
    for each in dark:
        what = "answers nobody" if each.state == "production" else "loses its staged adapter"
        err.print(
            f"[bold red]! {escape(each.line)} {what} once the recall is open: {escape(each.adapter)} is {each.state}[/]"
        )
    if not (sys.stdin.isatty() and typer.confirm("Open the recall?", err=True)):
        raise InputError(
            "The recall was not opened, because it would withdraw an adapter that answers now.",
            "To open it, use --yes.",
        )


@recall.command("list")
def recall_list(home: Home) -> Result:
    """List every recall, with the adapters to which the recall still applies."""
    with home.registry.reading() as session:
        found = list(list_recalls(session, home.settings))

    def show() -> None:
        trust = trust_root_if_any(home.settings)
        rows = [
            {
                "id": each.id,
                "recalled": str(question_of(each)),
                "reason": each.reason,
                "officer": officer_shown(trust, each.officer),
                "opened": each.opened_at.date().isoformat(),
                "applies to": and_more(adapters) or "no adapter",
            }
            for each, adapters in found
        ]
        print_rows(rows, "Recalls")

    return Result([{**row_as_dict(each), "holds_for": adapters} for each, adapters in found], show)


@recall.command("waive")
def recall_waive(
    home: Home,
    recall_id: Annotated[str, typer.Argument(help="Id of the recall, such as recall-1.")],
    adapter: Annotated[str, typer.Argument(help="Id of the adapter to exempt from the recall.")],
    reason: Annotated[str, typer.Option(help="Reason why the adapter may still be used.")],
    key: KeyOptions,
) -> None:
    """Waive a recall for one adapter, as an officer. Prints the waiver before your key signs it.

    The recall still applies to all other adapters. Exits with status 1 if the recall is already waived for this
    adapter.
    """
    with home.registry.reading() as session:
        recalled = str(question_of(recall_to_waive(session, home.settings, recall_id, adapter)))
    asked = {"waive": recall_id, "recalled": recalled, "adapter": adapter, "reason": officers_words(reason, "A waiver")}
    waive_recall(home.registry, recall_id, adapter, officers_signer(home.settings, key, asked), reason)
    print_done(f"{recall_id}: waived for {adapter}")


def _shown_recall(holder: dict[str, Any]) -> dict[str, Any]:
    how = "directly" if holder["directly"] else "by its origin"
    return {**only(holder, "adapter", "line", "state"), "trained on it": how}
