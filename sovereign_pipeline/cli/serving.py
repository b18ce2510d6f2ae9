"""`sovereign serve`: run the gateway, and manage the tokens of its callers."""

import datetime
from functools import partial
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.markup import escape

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.hosts import GATEWAY_PORT
from sovereign_pipeline.base.processes import account
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.cli.terminal import Group, Result, out, port_option, print_rows
from sovereign_pipeline.policy.institution import load_institution
from sovereign_pipeline.policy.line import load_line
from sovereign_pipeline.policy.serving import FrontEnd, Role
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.record.people import People
from sovereign_pipeline.serving.gateway.auth import (
    LONGEST_DAYS,
    Token,
    add_token,
    file_of,
    read_tokens,
    refused_by,
    revoke_token,
)

serve = Group(help="Run the gateway, and manage its callers' tokens.")
tokens = Group(no_args_is_help=True, help="Bearer tokens of the gateway's callers.")
serve.add_typer(tokens, name="tokens")


@serve.callback(invoke_without_command=True)
def serve_lines(
    context: typer.Context,
    port: Annotated[int, port_option("Port of the gateway.")] = GATEWAY_PORT,
    threads: Annotated[
        int | None, typer.Option(help="Threads per engine; default: `serving.threads`.", min=1, max=1024)
    ] = None,
) -> None:
    """Serve adapters in production and staged adapters on loopback, with OpenAI's API, until Ctrl-C."""
    if context.invoked_subcommand is not None:
        return
    # loads FastAPI, uvicorn and the engine
    from sovereign_pipeline.serving.gateway.server import serve as serve_gateway
    from sovereign_pipeline.workplace import open_workplace

    settings = Settings.from_environment()
    workplace_of = partial(open_workplace, settings)
    serve_gateway(settings, port, threads, lambda text: out.print(escape(text), soft_wrap=True), workplace_of)


@tokens.command("add")
def tokens_add(
    who: Annotated[str, typer.Argument(help="Name of the caller. The ledger only stores a salted commitment to it.")],
    clearance: Annotated[str, typer.Option(help="Highest classification level that the caller may use.")],
    line: Annotated[list[str] | None, typer.Option(help="A line that the caller may use; default: all lines.")] = None,
    versions: Annotated[
        bool, typer.Option("--versions", help="The caller may request a specific version of an adapter.")
    ] = False,
    metrics: Annotated[
        bool, typer.Option("--metrics", help="The caller may read the metrics, which name lines.")
    ] = False,
    admin: Annotated[bool, typer.Option("--admin", help="The caller may open /admin and /registry.")] = False,
    users: Annotated[
        bool, typer.Option("--users", help="The caller serves several people; `user` in a request names the person.")
    ] = False,
    user_header: Annotated[
        str | None, typer.Option(help="Header that names the person, instead of `user`. Implies --users.")
    ] = None,
    concurrent: Annotated[
        int | None, typer.Option(help="Maximum simultaneous requests; default: `limits`.", min=1)
    ] = None,
    per_minute: Annotated[
        int | None, typer.Option(help="Maximum requests per minute; default: `limits`.", min=1)
    ] = None,
    user_concurrent: Annotated[int | None, typer.Option(help="The same, of each person.", min=1)] = None,
    user_per_minute: Annotated[int | None, typer.Option(help="The same, of each person.", min=1)] = None,
    days: Annotated[int, typer.Option(help="Days until it expires.", min=1, max=LONGEST_DAYS)] = 90,
) -> Result:
    """Create a token and print it once. Only its SHA-256 is stored."""
    settings = Settings.from_environment()
    institution = load_institution(settings.data)
    institution.ladder.rank(clearance)
    lines = sorted({load_line(settings.data, name, institution).line for name in line}) if line else None
    try:
        front_end = FrontEnd(
            user_header=user_header,
            concurrent=concurrent,
            per_minute=per_minute,
            user_concurrent=user_concurrent,
            user_per_minute=user_per_minute,
        )
    except ValidationError:
        raise InputError("--user-header is not a valid header name.", "Such as X-OpenWebUI-User-Id.") from None
    role = Role(
        clearance=clearance,
        lines=tuple(lines) if lines is not None else None,
        versions=versions,
        metrics=metrics,
        admin=admin,
        users=users or user_header is not None,
        front_end=front_end,
    )
    actor = People(settings).commitment_of(account())
    text, token = add_token(settings, open_registry(settings), who, role, days, actor)

    def show() -> None:
        out.print(
            f"[green]✓[/] token {token.id} for {escape(token.who)}, until {token.expires_at:%Y-%m-%d}; shown once:"
        )
        out.print(escape(text))

    return Result({"token": text, **_facts(token)}, show)


@tokens.command("list")
def tokens_list() -> Result:
    """List every token by id, with its holder, permissions and expiry.

    Exits with status 1 if a token is not in the ledger as it is; the gateway rejects such a token.
    """
    settings = Settings.from_environment()
    found = read_tokens(file_of(settings))
    refused = refused_by(open_registry(settings), found) if found else {}
    now = datetime.datetime.now(datetime.UTC)
    rows = [{**_facts(each), "state": "refused" if each.sha256 in refused else each.state(now)} for each in found]

    def show() -> None:
        print_rows(rows, "Tokens")
        for each in found:
            if each.sha256 in refused:
                out.print(f"[red]✗[/] {each.id}: {refused[each.sha256]}")

    return Result(rows, show, passed=not refused)


@tokens.command("revoke")
def tokens_revoke(
    token: Annotated[str, typer.Argument(help="Id of the token, as listed.")],
) -> None:
    """Revoke a token. The gateway rejects it within seconds."""
    settings = Settings.from_environment()
    revoked = revoke_token(settings, open_registry(settings), token, People(settings).commitment_of(account()))
    out.print(f"[green]✓[/] token {revoked.id} is revoked")


def _facts(token: Token) -> dict[str, Any]:
    limits = token.front_end.model_dump(exclude_none=True, exclude={"user_header"})
    return {
        "id": token.id,
        "who": token.who,
        "clearance": token.clearance,
        "lines": ", ".join(token.lines) if token.lines is not None else "every line",
        "versions": token.versions,
        "metrics": token.metrics,
        "admin": token.admin,
        "users": token.front_end.user_header or token.users,
        "limits": ", ".join(f"{name} {value:g}" for name, value in limits.items()),
        "expires": token.expires_at.isoformat(timespec="seconds"),
    }
