"""Write the reference pages of the command line and of recipes, and the JSON schemas, from the code (`make docs`)."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

import typer
import yaml
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.main import get_command

from sovereign_pipeline.base_models.stages import BaseModelCard
from sovereign_pipeline.cli.main import LoadedWhenAsked
from sovereign_pipeline.policy.experiment import Experiment
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.policy.recipe_model import RecipeModel
from sovereign_pipeline.privacy.corrections import WordLists
from sovereign_pipeline.suites.cards import SuiteCard

Schema = Mapping[str, Any]

DIALECT = "https://json-schema.org/draft/2020-12/schema"

_BOUNDS = {
    "minimum": "≥",
    "exclusiveMinimum": ">",
    "maximum": "≤",
    "exclusiveMaximum": "<",
    "multipleOf": "a multiple of",
}
"""Maps a JSON Schema keyword for a bound on a number to the sign that the page shows."""


@dataclass(frozen=True)
class Documented:
    """A type of file that an institution edits."""

    name: str
    """Prefix of the file type's anchors on the page, such as `line`."""

    path: str
    """Path of files of this type, such as `data/lines/<line>.yaml`."""

    title: str
    model: type[RecipeModel]


def json_schema(documented: Documented) -> dict[str, Any]:
    """Return the JSON Schema of this file type. Editors use it to complete and check such a file."""
    schema = documented.model.model_json_schema()
    for section in (schema, *schema.get("$defs", {}).values()):
        for described in (section, *section.get("properties", {}).values()):
            if "description" in described:
                described["description"] = " ".join(described["description"].split())
            if "$ref" in described:
                described.pop("default", None)  # an editor would insert the whole section
    return {"$schema": DIALECT, **schema, "title": documented.title}


def page(every: Sequence[Documented], title: str, introduction: str) -> str:
    """Return the Markdown reference page of these file types. It has a table of keys for each section, in the file's
    order."""
    parts = [f"# {title}", introduction]
    parts += ["\n".join(f"- [{each.title}](#{each.name}): `{each.path}`" for each in every)]
    for each in every:
        parts += [f'<a id="{each.name}"></a>\n\n## {each.title}\n\n`{each.path}`', *_FilePage(each).sections()]
    return "\n\n".join(parts) + "\n"


class _FilePage:
    """The tables of the reference page for one type of file."""

    def __init__(self, documented: Documented) -> None:
        self._name = documented.name
        self._schema = json_schema(documented)
        self._first: dict[tuple[str, str], str] = {}  # key and meaning -> section that documents it first

    def sections(self) -> Iterator[str]:
        """Yield the tables of the top level and of each section below it, depth first."""
        yield from self._section(self._schema, "")

    def _section(self, schema: Schema, path: str) -> Iterator[str]:
        if path:
            heading = f'<a id="{self._anchor(path)}"></a>\n\n{"#" * min(6, 3 + path.count("."))} `{path}`'
            yield f"{heading}\n\n{schema.get('description', '')}"
        rows = [self._row(schema, key, field, path) for key, field in schema["properties"].items()]
        yield "\n".join(["| key | type | default | meaning |", "|---|---|---|---|", *rows])
        for key, field in schema["properties"].items():
            for below, nested in self._nested(field, f"{path}.{key}" if path else key):
                yield from self._section(nested, below)

    def _nested(self, field: Schema, path: str) -> Iterator[tuple[str, Schema]]:
        """Yield the path and the schema of each section in a field's type."""
        if "$ref" in field:
            yield path, self._definition(field["$ref"])
        for tag, reference in _tagged(field).items():
            yield f"{path}.{tag}", self._definition(reference)
        for option in field.get("anyOf", ()):
            yield from self._nested(option, path)
        for of_each in ("items", "additionalProperties"):
            if isinstance(field.get(of_each), dict):
                yield from self._nested(field[of_each], path)

    def _row(self, schema: Schema, key: str, field: Schema, path: str) -> str:
        description = field.get("description") or self._definition(field["$ref"])["description"]
        first = self._first.setdefault((key, description), path)
        meaning = description if first == path else f"As in [`{first}`](#{self._anchor(first)})."
        if field.get("examples") and first == path:
            meaning += f" Example: `{_as_yaml(field['examples'][0])}`"
        cells = (f"`{key}`", self._type(field, f"{path}.{key}" if path else key), _default(schema, key, field), meaning)
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    def _type(self, field: Schema, path: str) -> str:
        if "$ref" in field:
            return f"[section](#{self._anchor(path)})"
        if "discriminator" in field:
            links = [f"[`{tag}`](#{self._anchor(f'{path}.{tag}')})" for tag in _tagged(field)]
            return f"section, by `{field['discriminator']['propertyName']}`: {_either(links)}"
        if "anyOf" in field:
            return " or ".join(self._type(option, path) for option in field["anyOf"])
        if "enum" in field or "const" in field:
            return _either([f"`{value}`" for value in field.get("enum", [field.get("const")])])
        if field["type"] == "array":
            return f"list of {self._type(field['items'], path)}" + (", not empty" if field.get("minItems") else "")
        if field["type"] == "object":
            keys = f"of {self._type(field['propertyNames'], path)} " if "propertyNames" in field else ""
            values = field["additionalProperties"]
            return f"mapping {keys}to {'anything' if values is True else self._type(values, path)}"
        return _scalar(field)

    def _definition(self, reference: str) -> Schema:
        found: Schema = self._schema["$defs"][reference.removeprefix("#/$defs/")]
        return found

    def _anchor(self, path: str) -> str:
        return f"{self._name}.{path}" if path else self._name


def _tagged(field: Schema) -> dict[str, str]:
    """Return a mapping of tag to section reference for a field whose section depends on a tag, in the model's order."""
    mapping = field.get("discriminator", {}).get("mapping", {})
    references = [option["$ref"] for option in field.get("oneOf", ())]
    return dict(sorted(mapping.items(), key=lambda each: references.index(each[1])))


def _scalar(field: Schema) -> str:
    if "pattern" in field:
        return f"text matching `{field['pattern']}`"
    if field.get("format") == "path":
        return "path"
    name = {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false", "null": "null"}
    bounds = [f"{sign} {field[bound]:g}" for bound, sign in _BOUNDS.items() if bound in field]
    return f"{name[field['type']]} {' and '.join(bounds)}".rstrip()


def _either(options: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(options[:-1]), options[-1])))


def _default(schema: Schema, key: str, field: Schema) -> str:
    if key in schema.get("required", ()):
        return "**required**"
    if "default" in field:
        return f"`{_as_yaml(field['default'])}`"
    return "" if "$ref" in field else "see meaning"


def _as_yaml(value: Any) -> str:
    if isinstance(value, dict | list):
        return yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True, sort_keys=False).strip()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False) if not value or "\n" in value else value
    return json.dumps(value)


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
    """Yield the full name and the object of every command, and of every group that also runs without a subcommand."""
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
