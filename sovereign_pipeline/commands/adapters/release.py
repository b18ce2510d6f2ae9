"""`sovereign adapters request`, `approve`, `withdraw`, `reject`, and the questions about what officers decided.

What belongs here: options, and printing what a key is about to sign. What does not: what any of it does (`release/`).
The domain is imported inside functions: it loads the whole chain.
"""

import datetime
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.files import short
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.commands.adapters.flags import (
    adapters_accept_hold,
    adapters_hold,
    adapters_rollback,
    let_flag_follow,
    let_ledger_catch_up,
)
from sovereign_pipeline.commands.adapters.technical_file import adapters_sign_technical_file, adapters_technical_file
from sovereign_pipeline.commands.terminal import (
    AdapterId,
    AsJson,
    KeyOptions,
    LineName,
    OfLine,
    Reason,
    mark_demonstration,
    moment,
    officers_signer,
    out,
    print_json,
    print_rows,
    tell_progress,
    with_key_options,
)

if TYPE_CHECKING:
    from sovereign_pipeline.record.database import Registry
    from sovereign_pipeline.record.stage import Workplace
    from sovereign_pipeline.release.standing import Decision, Standing

RequestId = Annotated[str, typer.Argument(help="The request, or the first digits of its id.")]


def add_release_commands(adapters: typer.Typer) -> None:
    """Add them to the group `sovereign adapters`."""
    adapters.command("request")(adapters_request)
    adapters.command("requests")(adapters_requests)
    adapters.command("approve")(adapters_approve)
    adapters.command("withdraw")(adapters_withdraw)
    adapters.command("reject")(adapters_reject)
    adapters.command("retire")(adapters_retire)
    adapters.command("rollback")(adapters_rollback)
    adapters.command("hold")(adapters_hold)
    adapters.command("accept-hold")(adapters_accept_hold)
    adapters.command("history")(adapters_history)
    adapters.command("production")(adapters_production)
    adapters.command("diff")(adapters_diff)
    adapters.command("technical-file")(adapters_technical_file)
    adapters.command("sign-technical-file")(adapters_sign_technical_file)


@with_key_options
def adapters_request(
    adapter_id: AdapterId,
    transition: Annotated[
        str, typer.Argument(help="approve, stage, unstage, promote, roll_back, reject, recall or retire.")
    ],
    reason: Reason,
    key: KeyOptions,
) -> None:
    """Request that an adapter changes its state. What is asked is printed before your key signs it.

    Where the institution wants nobody else's approval, the change is made at once.
    """
    _request(adapter_id, transition, reason, key)


@with_key_options
def adapters_retire(adapter_id: AdapterId, reason: Reason, key: KeyOptions) -> None:
    """Retire an adapter: it is never served, compared with or continued from again; its records stay."""
    _request(adapter_id, "retire", reason, key)


def adapters_requests(line: OfLine = None, as_json: AsJson = False) -> None:
    """List every request with its approvals, and why it ended.

    Ends 1, naming it, where a line has one that is not on record; the requests of other lines are listed.
    """
    from sovereign_pipeline.record.audit_log import HINT
    from sovereign_pipeline.record.database import open_registry
    from sovereign_pipeline.record.officers import trust_root
    from sovereign_pipeline.release.standing import all_standings

    settings = Settings.from_environment()
    trust = trust_root(settings)
    with open_registry(settings).reading() as session:
        found, refused = all_standings(session, settings, trust, line)
    rows = [_facts(each) for each in found]
    if as_json:
        print_json(rows)
    else:
        mark_demonstration(trust)
        shown = [
            {**each, "request": short(each["request"]), "approved_by": ", ".join(each["approved_by"])} for each in rows
        ]
        print_rows(shown, False, "Requests")
    if refused:
        raise IntegrityError(" ".join(f"Line {each}: {error.message}" for each, error in refused.items()), HINT)


@with_key_options
def adapters_approve(request_id: RequestId, key: KeyOptions) -> None:
    """Approve a request. What is approved is printed before your key signs it.

    The last approval that is needed makes the change.
    """
    _decide(request_id, "approve", "", key)


@with_key_options
def adapters_withdraw(request_id: RequestId, key: KeyOptions) -> None:
    """Withdraw your approval, or your request, before the change is made."""
    _decide(request_id, "withdraw", "", key)


@with_key_options
def adapters_reject(request_id: RequestId, reason: Reason, key: KeyOptions) -> None:
    """Reject a request: it ends."""
    _decide(request_id, "reject", reason, key)


def adapters_history(adapter_id: AdapterId, as_json: AsJson = False) -> None:
    """Show every change of an adapter's state: who asked, who approved, and on what evidence.

    Ends 1, naming it, when one was not signed, asked for and approved as it says.
    """
    from sovereign_pipeline.record.catalog import find_adapter
    from sovereign_pipeline.record.database import open_registry
    from sovereign_pipeline.record.officers import trust_root
    from sovereign_pipeline.release.standing import history_of

    settings = Settings.from_environment()
    registry, trust = open_registry(settings), trust_root(settings)
    adapter = find_adapter(registry, adapter_id)
    with registry.reading() as session:
        rows = history_of(session, registry.settings, trust, adapter.line, adapter_id)
    if as_json:
        print_json(rows)
        return
    mark_demonstration(trust)
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
    print_rows(shown, False, f"History of {adapter_id}")


def adapters_production(
    line: LineName,
    at: Annotated[str | None, typer.Option(help="A day or a moment in UTC, as 2027-03-14 or 2027-03-14T09:30.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show which adapter of a line is in production, or was at a moment; a day means its end."""
    from sovereign_pipeline.record.catalog import in_production
    from sovereign_pipeline.record.database import open_registry

    asked = moment(at) if at is not None else None
    with open_registry(Settings.from_environment()).reading() as session:
        found = in_production(session, line, asked)
    if as_json:
        print_json({"line": line, "at": asked.isoformat() if asked else None, "adapter": found})
    else:
        out.print(found or f"Line {line}: nothing {'was' if asked else 'is'} in production.")


def adapters_diff(
    adapter_id: AdapterId,
    other: Annotated[str, typer.Argument(help="Another registered adapter.")],
    as_json: AsJson = False,
) -> None:
    """Show what differs between two adapters: data, base model, method, libraries, figures."""
    from sovereign_pipeline.record.database import open_registry
    from sovereign_pipeline.release.standing import differences

    found = differences(open_registry(Settings.from_environment()), adapter_id, other)
    if as_json:
        print_json({name: {adapter_id: one, other: two} for name, (one, two) in found.items()})
        return
    rows = [{"fact": name, adapter_id: _shown(one), other: _shown(two)} for name, (one, two) in found.items()]
    print_rows(rows, False, f"{adapter_id} and {other}")


def _request(adapter_id: str, transition: str, reason: str, key: KeyOptions) -> None:
    from sovereign_pipeline.release.requests import propose, request

    settings = Settings.from_environment()
    registry, workplace = _open(settings, adapter_id)
    let_ledger_catch_up(registry, workplace)
    now = datetime.datetime.now(datetime.UTC)
    proposal = propose(registry, workplace, adapter_id, transition, reason, now)
    signer = officers_signer(settings, key, _question(proposal.predicate()))
    standing = request(registry, workplace, signer, proposal)
    _print_standing(standing)
    if standing.is_made:
        let_flag_follow(registry, workplace)


def _decide(request_id: str, decision: "Decision", reason: str, key: KeyOptions) -> None:
    from sovereign_pipeline.record.database import open_registry
    from sovereign_pipeline.record.officers import trust_root
    from sovereign_pipeline.release.requests import decide, find_request
    from sovereign_pipeline.release.standing import standing_of
    from sovereign_pipeline.workplace import open_workplace

    settings = Settings.from_environment()
    registry, trust = open_registry(settings), trust_root(settings)
    with registry.reading() as session:
        standing = standing_of(session, settings, trust, find_request(session, request_id))
    workplace = open_workplace(settings, standing.request.line, tell_progress)
    let_ledger_catch_up(registry, workplace)
    asked = _question({"requested by": standing.requester.person, **standing.predicate})
    signer = officers_signer(settings, key, asked)
    standing = decide(registry, workplace, standing.request.id, decision, signer, reason)
    _print_standing(standing)
    if standing.is_made:
        let_flag_follow(registry, workplace)


def _open(settings: Settings, adapter_id: str) -> "tuple[Registry, Workplace]":
    from sovereign_pipeline.record.catalog import find_adapter
    from sovereign_pipeline.record.database import open_registry
    from sovereign_pipeline.workplace import open_workplace

    registry = open_registry(settings)
    adapter = find_adapter(registry, adapter_id)
    return registry, open_workplace(settings, adapter.line, tell_progress)


def _question(predicate: Mapping[str, Any]) -> dict[str, Any]:
    evidence = predicate["evidence"]
    facts = {name: value for name, value in predicate.items() if name not in ("evidence", "policy")}
    facts |= {f"evidence: {name}": _shown(value) for name, value in evidence.items()}
    facts |= {f"rules: {name}": _shown(value) for name, value in predicate["policy"].items()}
    return {name: "–" if value is None else value for name, value in facts.items()}


def _print_standing(standing: "Standing") -> None:
    predicate, row = standing.predicate, standing.request
    asked = f"{row.adapter_id}: {predicate['transition']} ({predicate['from']} → {predicate['to']})"
    if standing.ended is not None:
        out.print(f"[green]✓[/] {asked}: {escape(standing.ended)}")
        return
    out.print(f"[green]✓[/] {asked}: {len(standing.approvals)} of {standing.needed} approvals; request {row.id[:12]}")
    out.print(f"Next: [bold]sovereign adapters approve {row.id[:12]} --key FILE[/], by another officer")


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
