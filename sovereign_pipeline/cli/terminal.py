"""Define what all commands share: groups, common options, output as tables or JSON, and opening a private key."""

import datetime
import json
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from difflib import SequenceMatcher
from functools import cached_property, wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from sovereign_pipeline.base.errors import Act, InputError, Remedy, SovereignError
from sovereign_pipeline.base.processes import account, print_message
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.record.trust_root import DEMONSTRATION_KEYS, Trust

if TYPE_CHECKING:
    from sovereign_pipeline.policy.institution import Institution
    from sovereign_pipeline.record.database import Registry
    from sovereign_pipeline.record.keys import Signer
    from sovereign_pipeline.record.store import ArtifactStore

COMMANDS: Mapping[Act, str] = {
    "check_recipe": "sovereign lines check {file}",
    "close_review": "sovereign review close {line}",
    "close_review_early": "sovereign review close {line} --reason TEXT --key FILE",
    "fetch_model": "sovereign models fetch {model}",
    "list_suites": "sovereign suites list",
    "look_at_source": "sovereign sources look {file}",
    "make_trust_root": (
        "sovereign-trust demonstration {trust} {keys}   # demonstration only; in production use sovereign-trust init, "
        "offline"
    ),
    "make_vault_key": "sovereign-vault keygen --private {private} --public {public}   # in production, offline",
    "open_review": "sovereign review open {line}",
    "open_review_with_prompts": "sovereign review open {line} --prompts FILE",
    "review_status": "sovereign review status {line}",
    "run_experiment": "sovereign experiment run {experiment}",
    "run_line": "sovereign run {line}",
    "run_line_until": "sovereign run {line} --until {until}",
    "show_mask": "sovereign lines check {file} --show-mask",
    "size_training": "sovereign size --model {model} --rows ROWS --tokens TOKENS_PER_ROW",
    "waive_gate": "sovereign gates waive {line} {gate} --reason TEXT --key FILE",
}


def command_for(remedy: Remedy) -> str:
    return COMMANDS[remedy.act].format_map(remedy.about)


LONGEST_TABLE = 200
"""Maximum number of rows of a table that is printed with a frame. A longer table is printed as plain columns."""
WIDTH_OF_A_FILE = 10_000  # a table is not wrapped in a file or a pipe
out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else WIDTH_OF_A_FILE)
err = Console(stderr=True, highlight=False, soft_wrap=True)

LineName = Annotated[str, typer.Argument(help="Name of the line.")]
ModelName = Annotated[str, typer.Argument(help="Name of the base model, as in its card.")]
AdapterId = Annotated[str, typer.Argument(help="Id of a registered adapter, such as permits-desk-1.0.0.")]
DatasetDigest = Annotated[str, typer.Argument(help="Digest of a registered dataset, or its first digits.")]
RecipeFile = Annotated[Path, typer.Argument(help="A line's recipe, or the line's name.")]
OfLine = Annotated[str | None, typer.Option("--line", help="Show only this line.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Reason = Annotated[str, typer.Option(help="Reason for the decision. Every page about the adapter shows it.")]

LEAST_LIKENESS, LIKENESS_BY_HELP, MOST_SUGGESTIONS = 0.75, 0.8, 3
LARGEST_PORT = 2**16 - 1


def port_option(text: str) -> Any:
    return typer.Option(help=text, min=1, max=LARGEST_PORT)


@dataclass(frozen=True)
class KeyOptions:
    """Options that select a person's private key. A command with a parameter of this type has these options."""

    key: Annotated[Path | None, typer.Option("--key", help="File with your private key.")] = None
    token: Annotated[str | None, typer.Option("--token", help="Label of the hardware token with your key.")] = None
    passphrase_file: Annotated[
        Path | None, typer.Option("--passphrase-file", help="File with the passphrase or PIN; default: ask for it.")
    ] = None

    @property
    def are_given(self) -> bool:
        return self != KeyOptions()


class Home:
    """The installation that the environment variables select. A command function with a parameter of type `Home`
    receives an instance. Each property is loaded on first access."""

    @cached_property
    def settings(self) -> Settings:
        return Settings.from_environment()

    @cached_property
    def institution(self) -> "Institution":
        from sovereign_pipeline.policy.institution import load_institution

        return load_institution(self.settings.data)

    @cached_property
    def registry(self) -> "Registry":
        from sovereign_pipeline.record.database import open_registry

        return open_registry(self.settings)

    @cached_property
    def store(self) -> "ArtifactStore":
        """The artifact store, without access to unscrubbed text."""
        from sovereign_pipeline.record.sealing import LedgerSeals
        from sovereign_pipeline.record.store import ArtifactStore

        return ArtifactStore(self.settings.artifacts, LedgerSeals(self.settings, lambda: self.registry))

    @cached_property
    def trust(self) -> Trust:
        from sovereign_pipeline.record.officers import trust_root

        return trust_root(self.settings)

    @property
    def actor(self) -> str:
        """The commitment that the ledger stores instead of this account's name."""
        from sovereign_pipeline.record.officers import People

        return People(self.settings).commitment_of(account())


@dataclass(frozen=True)
class Result:
    """The result of a command. A command that returns a `Result` has the option `--json`."""

    data: Any
    """Value that `--json` prints. It may contain dataclasses, objects with `to_dict`, mappings and lists."""
    shown: str | Callable[[], object]
    """Title under which `data` is printed as a table, or a function that prints the result as text."""
    passed: bool = True
    """If False, the program exits with status 1."""
    errors: Collection[SovereignError] = ()
    """Errors to print after the result. The program then exits with status 1."""

    def print(self, as_json: bool) -> None:
        if as_json:
            print_json(self.data)
        elif isinstance(self.shown, str):
            print_rows(self.data, self.shown)
        else:
            self.shown()
        for error in self.errors:
            print_error(error)
        if self.errors or not self.passed:
            raise typer.Exit(1)


class SuggestingGroup(TyperGroup):
    """A command group whose error for an unknown command suggests the most similar commands of the whole program."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        self.suggest_commands = False  # Typer's own suggestions cover only this group
        try:
            return super().resolve_command(ctx, args)
        except Exception as error:
            if isinstance(message := getattr(error, "message", None), str) and (found := _nearest_commands(ctx, args)):
                error.message = f"{message.rstrip('.')}. Did you mean {' or '.join(found)}?"  # type: ignore[attr-defined]
            raise


def _nearest_commands(context: Any, args: list[str]) -> list[str]:
    """Return up to three commands whose name resembles the first argument, or whose help contains this argument as a
    word. If commands of the current group match, all others are left out. If the program itself has an option of this
    name, return only the option."""
    root = context.find_root()
    if f"--{args[0].lower()}" in (option for each in root.command.params for option in each.opts):
        return [f"'{root.command_path} --{args[0].lower()}'"]
    beside = "" if context is root else f"{context.command_path} "
    likeness: dict[str, float] = {}
    for path, command in _commands_below(root.command, root, root.command_path):
        found = SequenceMatcher(None, args[0], path.rpartition(" ")[2]).ratio()
        helps = " ".join([command.help or "", *(getattr(each, "help", None) or "" for each in command.params)])
        if args[0].lower() in re.findall(r"\w+", helps.lower()):
            found = max(found, LIKENESS_BY_HELP)
        if found >= LEAST_LIKENESS:
            if args[1:] and args[1] in getattr(command, "commands", ()):
                path += f" {args[1]}"
            found += bool(beside) and path.startswith(beside)
            likeness[path] = max(found, likeness.get(path, 0))
    best = max(likeness.values(), default=0.0)
    return [f"'{path}'" for path, found in likeness.items() if found > best - 0.05][:MOST_SUGGESTIONS]


def _commands_below(group: Any, context: Any, path: str) -> Iterator[tuple[str, Any]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None or command.hidden:
            continue
        yield f"{path} {name}", command
        if isinstance(command, TyperGroup):
            yield from _commands_below(command, context, f"{path} {name}")


class Group(typer.Typer):
    """A command group. Its commands may have parameters of the types `Home` and `KeyOptions`, and return a `Result` or
    None."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"cls": SuggestingGroup, **options})

    def command(self, *arguments: Any, **options: Any) -> Callable[[Any], Any]:
        return _registering(super().command(*arguments, **options))

    def callback(self, *arguments: Any, **options: Any) -> Callable[[Any], Any]:
        return _registering(super().callback(*arguments, **options))


def _registering(register: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def registered(command: Callable[..., Any]) -> Callable[..., Any]:
        register(_as_typer_command(command))
        return command

    return registered


def _as_typer_command(command: Callable[..., Any]) -> Callable[..., None]:
    """Convert a command function to a Typer command. The Typer command passes a `Home` to the function, adds the
    options of `KeyOptions` and `--json`, and prints the returned `Result`."""
    of_key, declared = signature(KeyOptions).parameters, signature(command)
    by_type = {each.annotation: name for name, each in declared.parameters.items()}
    home_name, key_name = by_type.get(Home), by_type.get(KeyOptions)
    parameters = [
        each
        for name, stated in declared.parameters.items()
        for each in (of_key.values() if name == key_name else [stated])
        if name != home_name
    ]
    takes_json = "as_json" in declared.parameters
    if declared.return_annotation is not None and not takes_json:
        parameters.append(Parameter("as_json", Parameter.KEYWORD_ONLY, default=False, annotation=AsJson))
    parameters = [each.replace(kind=Parameter.KEYWORD_ONLY) for each in parameters]

    @wraps(command)
    def typer_command(**given: Any) -> None:
        if home_name is not None:
            given[home_name] = Home()
        if key_name is not None:
            given[key_name] = KeyOptions(**{name: given.pop(name) for name in of_key})
        as_json = given.get("as_json", False) if takes_json else given.pop("as_json", False)
        result = command(**given)
        if result is not None:
            result.print(as_json)

    typer_command.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    typer_command.__annotations__ = {each.name: each.annotation for each in parameters}
    return typer_command


def print_rows(rows: list[dict[str, Any]], title: str) -> None:
    """Print rows as a table. The keys of the first row are the columns."""
    if not rows:
        out.print(f"{title}: none yet.")
        return
    if len(rows) > LONGEST_TABLE:
        _print_columns(rows, title)
        return
    table = Table(title=title, title_justify="left")
    for name in rows[0]:
        table.add_column(name.replace("_", " "), overflow="fold")
    for row in rows:
        table.add_row(*("" if value is None else escape(on_one_line(str(value), "\n")) for value in row.values()))
    out.print(table)


def on_one_line(text: str, kept: str = "") -> str:
    """Replace unprintable characters with spaces, because a terminal would interpret them as control codes. The
    characters in `kept` are not replaced."""
    return text if text.isprintable() else "".join(each if each.isprintable() or each in kept else " " for each in text)


def _print_columns(rows: list[dict[str, Any]], title: str) -> None:
    """Print a long table without a frame, because drawing a frame would be slow."""
    padded = []
    for name, values in zip(rows[0], zip(*(row.values() for row in rows), strict=True), strict=True):
        cells = [name.replace("_", " "), *("" if value is None else str(value) for value in values)]
        width = max(map(len, cells))
        padded.append([cell.ljust(width) for cell in cells])
    lines = [on_one_line("  ".join(cells).rstrip()) for cells in zip(*padded, strict=True)]
    out.file.write("\n".join([f"{title}: {len(rows):,}", *lines, ""]))


def print_facts(facts: Mapping[str, Any], console: Console = out) -> None:
    table = Table(show_header=False)
    for name, value in facts.items():
        is_json = isinstance(value, dict | list)
        text = json.dumps(value, ensure_ascii=False, indent=1) if is_json else str(value)
        table.add_row(escape(on_one_line(name.replace("_", " "))), escape(on_one_line(text, "\n" if is_json else "")))
    console.print(table)


def print_done(what: object) -> None:
    out.print(f"[green]✓[/] {escape(str(what))}")


def print_note(what: object, console: Console = out) -> None:
    console.print(f"[yellow]•[/] {escape(str(what))}")


def print_wrong(what: object) -> None:
    out.print(f"[red]✗[/] {escape(str(what))}")


def print_next(command: str, begin: str = "Next", console: Console = out) -> None:
    """Print the command to run next, as the last line of a command's output."""
    console.print(f"{escape(begin)}: [bold]{escape(command)}[/]")


def tell_progress(message: str) -> None:
    """Print a progress message to standard error, so that standard output contains only the result."""
    err.print(escape(f"  {message}"))


def only(row: Mapping[str, Any], *names: str) -> dict[str, Any]:
    return {name: row[name] for name in names}


def moment(text: str) -> datetime.datetime:
    """Parse a UTC time. A date without a time (`YYYY-MM-DD`) means the last microsecond of that day. Raises InputError
    for other text."""
    try:
        found = datetime.datetime.fromisoformat(text)
        if len(text) <= len("2027-03-14"):
            if text != found.date().isoformat():  # such as 20270314, which is midnight for `fromisoformat`
                raise ValueError
            return datetime.datetime.combine(found, datetime.time.max, datetime.UTC)
    except ValueError:
        raise InputError(
            f"'{text[:40]}' is not a valid date or time.", "Write 2027-03-14 or 2027-03-14T09:30."
        ) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=datetime.UTC)


def print_error(error: SovereignError) -> None:
    """Print an error, its hint, and the command that corrects it, each on its own line."""
    print_message(error.message, advice_of(error))


def advice_of(error: SovereignError) -> dict[str, str]:
    """Return a mapping of label (`Hint`, `Command`) to remedy, for the remedies that the error has."""
    hint = {"Hint": error.hint} if error.hint else {}
    return hint | ({"Command": command_for(error.remedy)} if error.remedy is not None else {})


def officers_signer(
    settings: Settings, key: KeyOptions, decided: Mapping[str, Any], console: Console = out
) -> "Signer":
    """Print the decision that an officer is about to sign, open the officer's key, and return its signer."""
    from sovereign_pipeline.record.keys import key_source
    from sovereign_pipeline.record.officers import officer_of, trust_root

    key_source(key.key, key.token)  # raises an error before anything is printed
    print_facts(decided, console)
    trust = trust_root(settings)
    mark_demonstration(trust, console)
    signer = opened_key(key)
    console.print(f"Signing as [bold]{escape(officer_of(trust, signer.keyid).person)}[/]")
    return signer


def opened_key(key: KeyOptions) -> "Signer":
    """Open a person's private key. If no option names a passphrase file, ask for the passphrase."""
    from sovereign_pipeline.record.keys import asked_passphrase, key_source, open_signer

    source = key_source(key.key, key.token)
    return open_signer(source, asked_passphrase(f"Passphrase for {source}", key.passphrase_file))


def mark_demonstration(trust: Trust, console: Console = out) -> None:
    """Print a warning if the trust root has demonstration keys."""
    if trust.is_demonstration:
        console.print(f"[yellow]{DEMONSTRATION_KEYS}[/]: they are stored on this machine, and prove nothing")


def write_new_file(path: Path, text: str) -> None:
    """Write a text to a new file. Raises InputError if the path exists or cannot be written."""
    try:
        with path.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except FileExistsError:
        raise InputError(f"{path}: the path exists already.", "Choose a new file.") from None
    except OSError as error:
        raise InputError(
            f"{path}: the file cannot be written ({error.strerror}).",
            "Choose a file in a folder that you can write to.",
        ) from None


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, ensure_ascii=False, indent=2, default=_as_json) + "\n")


def _as_json(value: Any) -> Any:
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if is_dataclass(value):
        return {each.name: getattr(value, each.name) for each in fields(value)}
    return str(value)
