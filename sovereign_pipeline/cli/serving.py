"""`sovereign serve`: run the gateway, and manage the tokens of its callers."""

import datetime
from functools import partial
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.markup import escape

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.pages import GATEWAY_PORT
from sovereign_pipeline.cli.terminal import Group, Home, Result, out, port_option, print_done, print_rows, print_wrong
from sovereign_pipeline.policy.line import load_line
from sovereign_pipeline.policy.serving import FrontEnd, Role
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
    home: Home,
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

    workplace_of = partial(open_workplace, home.settings)
    serve_gateway(home.settings, port, threads, lambda text: out.print(escape(text), soft_wrap=True), workplace_of)


@tokens.command("add")
def tokens_add(
    home: Home,
    who: Annotated[str, typer.Argument(help="Name of the caller. The ledger stores only a salted commitment to it.")],
    clearance: Annotated[str, typer.Option(help="Highest classification level that the caller may use.")],
    line: Annotated[list[str] | None, typer.Option(help="A line that the caller may use; default: all lines.")] = None,
    versions: Annotated[
        bool, typer.Option("--versions", help="The caller may request a specific version of an adapter.")
    ] = False,
    metrics: Annotated[
        bool, typer.Option("--metrics", help="The caller may read the metrics, which contain the names of all lines.")
    ] = False,
    admin: Annotated[bool, typer.Option("--admin", help="The caller may open /admin and /registry.")] = False,
    users: Annotated[
        bool, typer.Option("--users", help="The caller serves several people. `user` in a request names the person.")
    ] = False,
    user_header: Annotated[
        str | None, typer.Option(help="Header that names the person, instead of `user`. Implies --users.")
    ] = None,
    concurrent: Annotated[
        int | None, typer.Option(help="Maximum simultaneous requests; default: as in `serving.limits`.", min=1)
    ] = None,
    per_minute: Annotated[
        int | None, typer.Option(help="Maximum requests per minute; default: as in `serving.limits`.", min=1)
    ] = None,
    user_concurrent: Annotated[int | None, typer.Option(help="Like --concurrent, but for each person.", min=1)] = None,
    user_per_minute: Annotated[int | None, typer.Option(help="Like --per-minute, but for each person.", min=1)] = None,
    days: Annotated[int, typer.Option(help="Days until the token expires.", min=1, max=LONGEST_DAYS)] = 90,
) -> Result:
    """Create a token and print it once. Only its SHA-256 is stored."""
    home.institution.ladder.rank(clearance)
    lines = sorted({load_line(home.settings.data, name, home.institution).line for name in line}) if line else None
    try:
        front_end = FrontEnd(
            user_header=user_header,
            concurrent=concurrent,
            per_minute=per_minute,
            user_concurrent=user_concurrent,
            user_per_minute=user_per_minute,
        )
    except ValidationError:
        raise InputError(
            "--user-header is not a valid header name.", "Use a name such as X-OpenWebUI-User-Id."
        ) from None
    role = Role(
        clearance=clearance,
        lines=tuple(lines) if lines is not None else None,
        versions=versions,
        metrics=metrics,
        admin=admin,
        users=users or user_header is not None,
        front_end=front_end,
    )
    text, token = add_token(home.settings, home.registry, who, role, days, home.actor)

    def show() -> None:
        print_done(f"token {token.id} for {token.who}, until {token.expires_at:%Y-%m-%d}; shown once:")
        out.print(escape(text))

    return Result({"token": text, **_facts(token)}, show)


@tokens.command("list")
def tokens_list(home: Home) -> Result:
    """List every token by id, with its holder, permissions and expiry.

    Exits with status 1 if a token differs from its ledger entry. The gateway rejects such a token.
    """
    found = read_tokens(file_of(home.settings))
    refused = refused_by(home.registry, found) if found else {}
    now = datetime.datetime.now(datetime.UTC)
    rows = [{**_facts(each), "state": "refused" if each.sha256 in refused else each.state(now)} for each in found]

    def show() -> None:
        print_rows(rows, "Tokens")
        for each in found:
            if each.sha256 in refused:
                print_wrong(f"{each.id}: {refused[each.sha256]}")

    return Result(rows, show, passed=not refused)


@tokens.command("revoke")
def tokens_revoke(home: Home, token: Annotated[str, typer.Argument(help="Id of the token, as listed.")]) -> None:
    """Revoke a token. The gateway rejects it within seconds."""
    revoked = revoke_token(home.settings, home.registry, token, home.actor)
    print_done(f"token {revoked.id} is revoked")


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
