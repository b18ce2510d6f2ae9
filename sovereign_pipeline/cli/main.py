"""`sovereign`: the entry point of the command line, and its top-level commands. Exit status: 0 success; 1 a check or
gate failed; 2 wrong input or usage."""

import gc
from collections.abc import Mapping
from dataclasses import replace
from importlib import import_module
from typing import Annotated, Any

import typer
from rich.markup import escape
from typer.main import get_command, get_group

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.files import short
from sovereign_pipeline.base.pages import GATEWAY_PORT, LOOPBACK, REVIEW_PORT
from sovereign_pipeline.base.processes import keep_private, run_program
from sovereign_pipeline.base.settings import go_offline
from sovereign_pipeline.cli.terminal import (
    Group,
    Home,
    Result,
    SuggestingGroup,
    out,
    port_option,
    print_error,
    print_next,
)


class LoadedWhenAsked(SuggestingGroup):
    """A group that imports a command's module only when the command is used."""

    elsewhere: Mapping[str, str] = {}
    """Mapping of command name to the module that defines the command."""

    def list_commands(self, ctx: Any) -> list[str]:
        self.load_all()
        return super().list_commands(ctx)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name in self.elsewhere and cmd_name not in self.commands:
            self.add_command(_command_in(self.elsewhere[cmd_name], cmd_name), cmd_name)
        return super().get_command(ctx, cmd_name)

    def load_all(self) -> None:
        """Import every module. Then list the commands in the order of `elsewhere`, followed by the commands that this
        group itself defines."""
        own = dict(self.commands)
        others = {name: own[name] if name in own else _command_in(at, name) for name, at in self.elsewhere.items()}
        self.commands = {**others, **own}


def _command_in(module: str, name: str) -> Any:
    """Import a module, and return its group or function `name` as a command."""
    found = getattr(import_module(module), name)
    if isinstance(found, typer.Typer):
        command: Any = get_group(found)
    else:
        alone = Group(add_completion=False)
        alone.command()(found)
        command = get_command(alone)
    command.name = name
    return command


ALLOCATIONS = 250_000
"""Number of allocations between two garbage collections. A collection during imports frees almost nothing. With this
number, a short command ends before the first collection."""

HELP = """Build registered adapters from a corpus of documents, and log every step.

Exit status: 0 success; 1 a check or gate failed; 2 wrong input or usage.
"""


class Sovereign(LoadedWhenAsked):
    """The program `sovereign`. `elsewhere` maps each of its command groups to the module that defines the group."""

    elsewhere = {
        command: f"sovereign_pipeline.cli.{module}"
        for module, commands in {
            "lines": ("lines", "gates"),
            "corpus": ("sources", "privacy"),
            "models": ("models", "suites", "size"),
            "experiments": ("experiment",),
            "adapters": ("datasets",),
            "release": ("adapters", "recall"),
            "review": ("review",),
            "audit": ("audit", "evidence"),
            "installation": ("backup", "bundle", "databases", "init"),
            "serving": ("serve",),
        }.items()
        for command in commands
    }


app = Group(cls=Sovereign, no_args_is_help=True, pretty_exceptions_enable=False, help=HELP)


def _print_version(asked: bool) -> None:
    if asked:
        import importlib.metadata

        out.print(f"sovereign-pipeline {importlib.metadata.version('sovereign-pipeline')}")
        raise typer.Exit


@app.callback(help=HELP)
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options of the program itself."""


def main() -> None:
    keep_private()
    gc.set_threshold(ALLOCATIONS)
    go_offline()
    try:
        run_program(app, print_error)
    finally:
        gc.freeze()


@app.command()
def run(
    home: Home,
    line: Annotated[list[str] | None, typer.Argument(help="One or more lines, run one after the other.")] = None,
    until: Annotated[
        str | None, typer.Option(help="Last stage to run, such as training_dataset; default: registered_adapter.")
    ] = None,
) -> None:
    """Run lines from raw corpus to registered adapter. Artifacts whose inputs did not change are reused."""
    from sovereign_pipeline.cli.adapters import print_adapters, print_dataset, with_marks
    from sovereign_pipeline.dagster.definitions import chain_job
    from sovereign_pipeline.dagster.resources import open_instance
    from sovereign_pipeline.dagster.runner import run_line
    from sovereign_pipeline.policy.line import line_names, load_line, refuse_to_fill_in
    from sovereign_pipeline.record.catalog import list_adapters
    from sovereign_pipeline.workplace import open_workplace

    if not line:
        names = line_names(home.settings.data)
        raise InputError(
            f"No line was given. {'The lines are ' + ', '.join(names) if names else 'There is no line yet'}.",
            f"sovereign run {names[0]}" if names else "Begin with: sovereign sources look FILE.",
        )
    recipes = [load_line(home.settings.data, name, home.institution) for name in line]
    for recipe in recipes:
        refuse_to_fill_in(recipe)
    home.store.seals.assert_ready()
    instance = open_instance(home.settings)
    for number, recipe in enumerate(recipes, start=1):
        out.print(f"[bold]Line {number}/{len(recipes)}: {recipe.line}[/] · {escape(recipe.purpose)}")
        done = run_line(
            instance, chain_job, open_workplace(home.settings, recipe.line), lambda text: out.print(escape(text)), until
        )
        if done.run_id is None:
            out.print(
                f"  nothing to do: no input has changed and every gate passed ({done.seconds:.1f} s); "
                f"`sovereign adapters verify ID` reads every byte again"
            )
        else:
            out.print(f"  {len(done.materialized)} assets materialized in {done.seconds:.0f} s (run {done.run_id[:8]})")
    if until is not None:
        store = home.store
        found = [store.current(recipe.line, until) for recipe in recipes if until.endswith("_dataset")]
        for ref in (datasets := [ref for ref in found if ref is not None]):
            print_dataset(home.settings, ref)
        if datasets:
            print_next(f"sovereign datasets show {short(datasets[-1].digest)}")
        return
    print_adapters(
        with_marks(home.registry, [each for recipe in recipes for each in list_adapters(home.registry, recipe.line)])
    )
    out.print("\nNext: [bold]make up[/] (starts the web pages), or one of these commands in .venv/bin/")
    out.print("  sovereign adapters show ID      all facts about the adapter in the registry")
    out.print("  sovereign adapters verify ID    hash the adapter and its inputs, down to the source files")
    out.print("  sovereign review open LINE      open a blind review of the line's newest adapter")
    out.print(
        "  sovereign adapters request ID approve|stage|promote …  request an officers' decision "
        "(docs/how-to/release.md)"
    )
    out.print("  sovereign serve                 serve adapters in production; `make up` does so too")


@app.command()
def up(
    home: Home,
    port: Annotated[int, port_option("Port of the Dagster UI.")] = 3000,
    mlflow_port: Annotated[int, port_option("Port of MLflow's UI.")] = 5000,
    review_port: Annotated[int, port_option("Port of the review page.")] = REVIEW_PORT,
    pages_port: Annotated[
        int | None, port_option("Port of the artifact pages; default: the port of SOVEREIGN_PAGES_URL, 8700.")
    ] = None,
    gateway_port: Annotated[int, port_option("Port of the gateway.")] = GATEWAY_PORT,
    auditor: Annotated[
        int | None, port_option("Start a second Dagster for auditors, behind your proxy, on this port.")
    ] = None,
) -> None:
    """Run all services on loopback until Ctrl-C: Dagster's UI and daemon, MLflow's UI, the review page, artifact
    pages and gateway.

    The artifact pages also serve the registry, under /registry. The gateway starts once an adapter is in production.
    """
    from sovereign_pipeline.dagster.resources import open_instance, register_lines
    from sovereign_pipeline.dagster.services import Ports, serve_until_interrupted

    settings = home.settings
    if pages_port is not None:
        settings = replace(settings, pages_url=f"http://{LOOPBACK}:{pages_port}")
    register_lines(open_instance(settings), settings)
    ports = Ports(port, mlflow_port, review_port, settings.pages_port, gateway_port, auditor)
    serve_until_interrupted(settings, ports, out.print)


@app.command()
def doctor(home: Home) -> Result:
    """Check everything that a run needs. Exits with status 1 if something is missing."""
    from sovereign_pipeline.cli.doctor import examine, print_findings

    findings = examine(home.settings)
    return Result(findings, lambda: print_findings(findings), passed=all(each.ok for each in findings))
