"""Write the generated pages and schemas again: `make docs`. A test compares each with its source."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageMetadata, metadata
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import typer
import yaml
from typer.core import TyperArgument, TyperCommand, TyperGroup, TyperOption
from typer.main import get_command

from benchmarks.evaluation.judge_tables import judges_markdown
from sovereign_pipeline.base_models.stages import BaseModelCard
from sovereign_pipeline.cli.main import LoadedWhenAsked, app
from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.policy.experiment import Experiment
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.policy.recipe_model import RecipeModel, json_schema
from sovereign_pipeline.privacy.corrections import WordLists
from sovereign_pipeline.privacy.preview import how_found
from sovereign_pipeline.privacy.vault_cli import app as vault_app
from sovereign_pipeline.record.trust_cli import app as trust_app
from sovereign_pipeline.serving.gateway.parameters import KINDS, TABLES
from sovereign_pipeline.serving.transcripts_cli import app as transcripts_app
from sovereign_pipeline.suites.cards import SuiteCard
from sovereign_pipeline_tests.corpus.first_file import first_file_markdown
from sovereign_pipeline_tests.corpus.first_files import VARIANTS
from sovereign_pipeline_tests.corpus.mail_files import source_files_markdown
from sovereign_pipeline_tests.security_cases import security_cases_markdown
from sovereign_pipeline_tests.serving.gateway.clients import clients_markdown

Schema = Mapping[str, Any]
DOCS = Path(__file__).resolve().parent
REFERENCE = DOCS / "reference"
SCHEMAS = DOCS.parent / "data" / "schemas"
PINNED = DOCS.parent / "requirements" / "runtime.txt"
LICENCES = """# Licences

Sovereign Pipeline is under the Apache License 2.0 (`LICENSE`). An installation, and a bundle, also has these
distributions of `requirements/runtime.txt`, under the licences that their metadata states. The texts are in the
wheels. Base models and evaluation suites state theirs on their cards.

| distribution | version | licence |
|---|---|---|
"""

PERSONAL_DATA = """# Kinds of personal data

How each kind is found and treated with the defaults. `sovereign lines check FILE --power` prints this table for a line.
[How to change the treatment](../how-to/personal-data.md).

"""

PARAMETERS = (
    "`/v1/chat/completions` and `/v1/completions`",
    "A message",
    "A part of a message",
    "`stream_options`",
)


def pages() -> dict[Path, str]:
    """Path of each generated file -> what it must hold."""
    return {
        REFERENCE / "command-line.md": command_line_markdown(
            {
                "sovereign": app,
                "sovereign-transcripts": transcripts_app,
                "sovereign-trust": trust_app,
                "sovereign-vault": vault_app,
            }
        ),
        REFERENCE / "clients.md": clients_markdown(),
        REFERENCE / "parameters.md": parameters_markdown(),
        REFERENCE / "first-file.md": first_file_markdown(VARIANTS),
        REFERENCE / "source-files.md": source_files_markdown(),
        REFERENCE / "licences.md": licences_markdown(),
        REFERENCE / "recipe.md": recipe_markdown(),
        REFERENCE / "security-cases.md": security_cases_markdown(),
        REFERENCE / "judges.md": judges_markdown(),
        REFERENCE / "personal-data.md": personal_data_markdown(),
        **{
            SCHEMAS / f"{each.name}.schema.json": json.dumps(
                json_schema(each.model, each.title), ensure_ascii=False, indent=2
            )
            + "\n"
            for each in (LINE, EXPERIMENT, INSTITUTION, WORD_LISTS)
        },
    }


def parameters_markdown() -> str:
    lines = [
        "# Parameters of requests",
        "",
        "Every parameter that the gateway knows, by what it does with it. Any other one is rejected. `null` is the",
        "same as leaving a parameter out. The response header `X-Sovereign-Ignored` lists the parameters of a request",
        "that had no effect.",
    ]
    for title, table in zip(PARAMETERS, TABLES.values(), strict=True):
        lines += ["", f"## {title}", "", "| parameter | accepted | otherwise | why |", "|---|---|---|---|"]
        for each in table:
            only = "" if each.kinds == KINDS else f" ({each.kinds[0]})"
            accepted = f"{each.words}: {'used' if each.is_used else 'ignored'}" if each.words else "–"
            otherwise = "rejected" if each.schema else "–"
            lines.append(f"| `{each.name}`{only} | {accepted} | {otherwise} | {each.why} |")
    return "\n".join(lines) + "\n"


def personal_data_markdown() -> str:
    defaults = Institution(name="Default", classification=("PUBLIC",)).treatments("")
    rows = [
        f"| {each.kind} | {each.treatment} | {each.ways} | {each.remark} |" for each in how_found(Privacy(), defaults)
    ]
    return PERSONAL_DATA + "\n".join(["| kind | treatment | found by | remark |", "|---|---|---|---|", *rows]) + "\n"


def licences_markdown() -> str:
    pins = re.findall(r"^([\w.-]+)(?:\[[^]]*])?==([^\s;]+)", PINNED.read_text(encoding="utf-8"), re.MULTILINE)
    return LICENCES + "".join(f"| {name} | {version} | {_licence(metadata(name))} |\n" for name, version in pins)


def _licence(stated: PackageMetadata) -> str:
    classifiers = [each.split(" :: ")[-1] for each in stated.get_all("Classifier", []) if each.startswith("License ::")]
    first_line = (stated.get("License") or "").split("\n")[0]
    return stated.get("License-Expression") or "; ".join(classifiers) or first_line or "not stated"


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
        self._schema = json_schema(documented.model, documented.title)
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
    for name, program in programs.items():
        root = get_command(program)
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


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
