"""Write the reference pages of the command line and of recipes from the code (`make docs`)."""

from collections.abc import Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

import typer
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.main import get_command

from sovereign_pipeline.base_models.pinned import BaseModelCard
from sovereign_pipeline.cli.main import LoadedWhenAsked
from sovereign_pipeline.policy.experiment import Experiment
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.policy.reference import Documented, page
from sovereign_pipeline.privacy.corrections import WordLists
from sovereign_pipeline.suites.cards import SuiteCard

INTRODUCTION = """# Command line

Generated from the commands by `make docs`. Exit status of every command: 0 success; 1 a check or gate failed;
2 wrong input or usage. `sovereign --install-completion` completes commands and options in your shell.
"""


def command_line_markdown(programs: Mapping[str, typer.Typer]) -> str:
    """Return a Markdown page about every command of each program: usage, purpose, arguments and options."""
    parts = [INTRODUCTION]
    for name, app in programs.items():
        root = get_command(app)
        parts.append(f"## {name}\n\n{_text(root.help)}\n")
        commands = list(leaves(root, name))
        parts.append("\n".join(f"- [`{path}`](#{_anchor(path)})" for path, _ in commands) + "\n")
        parts.extend(_section(path, command) for path, command in commands)
    return "\n".join(parts)


def leaves(command: Any, path: str) -> Iterator[tuple[str, TyperCommand | TyperGroup]]:
    """Yield every command that is not a group, with its full name."""
    if not isinstance(command, TyperGroup):
        yield path, command
        return
    if isinstance(command, LoadedWhenAsked):
        command.load_all()
    if command.invoke_without_command:
        yield path, command
    for name, inner in sorted(command.commands.items()):
        yield from leaves(inner, f"{path} {name}")


def _section(path: str, command: TyperCommand | TyperGroup) -> str:
    parameters = [each for each in command.params if each.name != "help"]
    arguments = [_placeholder(each) for each in parameters if isinstance(each, TyperArgument)]
    has_options = any(isinstance(each, TyperOption) for each in parameters)
    usage = " ".join([path, *(["[OPTIONS]"] if has_options else []), *arguments])
    lines = [f"### {path}\n", f"```\n{usage}\n```\n", f"{_text(command.help)}\n"]
    if parameters:
        lines += ["| | | default |", "|---|---|---|", *map(_row, parameters), ""]
    return "\n".join(lines)


def _row(parameter: Any) -> str:
    if isinstance(parameter, TyperOption):
        value = "" if parameter.is_flag else f" {_values(parameter)}"
        name = f"{', '.join((*parameter.opts, *parameter.secondary_opts))}{value}"
    else:
        name = _placeholder(parameter)
    default = parameter.default
    is_shown = default is not None and default is not False and not callable(default)
    shown = "required" if parameter.required else f"`{default}`" if is_shown else ""
    return f"| `{_text(name)}` | {_text(parameter.help)} | {shown} |"


def _values(option: Any) -> str:
    """Format the values of an option: its choices, or its type."""
    annotation = option.type_descriptor.annotation
    if get_origin(annotation) is Literal:
        return "|".join(map(str, get_args(annotation)))
    kinds = [each for each in (get_args(annotation) or (annotation,)) if each is not type(None)]
    return "|".join(getattr(kind, "__name__", str(kind)).upper() for kind in kinds)


def _placeholder(argument: Any) -> str:
    name = argument.name.upper() + ("..." if argument.nargs == -1 else "")
    return name if argument.required else f"[{name}]"


def _text(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def _anchor(path: str) -> str:
    return path.replace(" ", "-")


LINE = Documented("line", "data/lines/<line>.yaml", "Recipe of a line", Line)
EXPERIMENT = Documented("experiment", "data/experiments/<name>.yaml", "Experiment on a line", Experiment)
INSTITUTION = Documented("institution", "data/institution.yaml", "Rules of the institution", Institution)
WORD_LISTS = Documented("privacy", "data/privacy/<line>.yaml", "Corrections of a line's findings", WordLists)
BASE_MODEL = Documented("model", "data/models/<name>.yaml", "Card of a base model", BaseModelCard)
SUITE = Documented("suite", "data/suites/<suite>.yaml", "Card of a published suite", SuiteCard)

OF_RECIPES = """Every key of the files that an institution edits, generated from the program's models by
`make docs`.

A key that is left out has its default. An unknown key is an error, and its message suggests the nearest known key. A
number in quotes is an error. `sovereign lines check FILE` validates a recipe before anything runs. Editors with the
YAML language server complete and check a file whose first line names its schema in `data/schemas/`, such as
`# yaml-language-server: $schema=../schemas/line.schema.json`."""


def recipe_markdown() -> str:
    return page((LINE, EXPERIMENT, INSTITUTION, WORD_LISTS, BASE_MODEL, SUITE), "Recipe reference", OF_RECIPES)
