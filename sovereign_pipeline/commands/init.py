"""`sovereign init`: a data directory to start from.

What belongs here: the files that every institution needs before its first recipe. What does not: the recipe, which
`sovereign sources look --recipe` writes from a file of the institution.
"""

import json
import shutil
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.settings import PROJECT_ROOT, Settings
from sovereign_pipeline.commands.terminal import out
from sovereign_pipeline.policy.institution import load_institution
from sovereign_pipeline.policy.recipe_model import FILL_IN
from sovereign_pipeline.record.officers import TRUST

_INSTITUTION = """\
# yaml-language-server: $schema=schemas/institution.schema.json
name: {name}
# The classification levels, lowest first. Every document, suite, prompt file and base model has one of them.
classification: [PUBLIC, INTERNAL, CONFIDENTIAL, SECRET]
# Days after which a registered adapter must be reviewed.
review_every_days: 180
# What is done with each kind of personal data: replace, keep, or stop the line at the row. A kind that is not named
# here has its default: docs/reference/recipe.md.
sensitive: {{PLACE: keep, DATE: keep}}
"""

_LINES = """\
# Recipes: one file a line, `NAME.yaml`

    sovereign sources look FILE --recipe --line NAME > NAME.yaml    writes one to start from
    sovereign lines check NAME.yaml                                 says what is missing or still to be filled in
    sovereign run NAME --until training_dataset                     makes the datasets, and trains nothing

Every key: docs/reference/recipe.md.
"""

_SOURCES = """\
# The institution's files: CSV, TSV, JSONL, JSON or Parquet, also gzipped

A recipe names them by their path in this directory (`sources/letters.csv`), or by an absolute one. They are read where
they are and never changed. Keep them out of version control unless it may hold documents of their level.
"""

_MODELS = """\
# Cards of base models: licence, classification level, and the digest of every file

`sovereign models fetch NAME` gets the one that a card names and verifies it; `sovereign models --help` has the rest.
"""

_COPIED = ("models", "suites", "red_team", "schemas")
"""Folders of the demonstration's data that are for any institution."""


def init(
    directory: Annotated[Path, typer.Argument(help="A directory that is empty or does not exist yet.")],
    name: Annotated[str, typer.Option(help="Name of the institution.")] = f"{FILL_IN} the name of the institution",
) -> None:
    """Write a data directory to start from: institution.yaml, a base model's card, suites and prompts.

    What is still missing is a recipe in lines/; the commands that make one are printed.
    """
    if directory.is_dir() and any(directory.iterdir()):
        raise InputError(f"{directory} is not empty.", "Name a directory that is empty or does not exist yet.")
    if directory.exists() and not directory.is_dir():
        raise InputError(f"{directory} is no directory.", "Name another path.")
    shipped = PROJECT_ROOT / "data"
    missing = [str(shipped / folder) for folder in _COPIED if not (shipped / folder).is_dir()]
    if missing:
        raise InputError(f"{', '.join(missing)}: not there to be copied.", "Run from a whole checkout of the project.")
    try:
        _write(directory.absolute(), shipped, name)
    except OSError as error:
        raise InputError(f"{directory} cannot be written: {error.strerror or error}.", "Name another path.") from None
    load_institution(directory)
    _print_next(directory.absolute())


def _write(directory: Path, shipped: Path, name: str) -> None:
    for folder in _COPIED:
        shutil.copytree(shipped / folder, directory / folder, copy_function=shutil.copyfile)
    texts = {
        "institution.yaml": _INSTITUTION.format(name=json.dumps(name, ensure_ascii=False)),
        "lines/README.md": _LINES,
        "sources/README.md": _SOURCES,
        "models/README.md": _MODELS,
    }
    for path, text in texts.items():
        (directory / path).parent.mkdir(exist_ok=True)
        (directory / path).write_text(text, encoding="utf-8")


def _print_next(directory: Path) -> None:
    settings = Settings.from_environment({"SOVEREIGN_DATA": str(directory)})
    steps = [
        (f"export SOVEREIGN_DATA={directory}", "the commands below read it"),
        ("sovereign models fetch smollm2-135m-instruct", "the base model, once a machine"),
        (
            f"sovereign-vault keygen --private {settings.home}-offline/vault.key --public {settings.vault_public_key}",
            "the vault's keys, once; in production on an offline machine",
        ),
        (
            f"sovereign-trust demonstration {directory / TRUST} {settings.keys}",
            "keys that sign what is made, for a trial; in production sovereign-trust init, offline",
        ),
        ("sovereign doctor", "what is missing"),
        (f"sovereign sources look FILE --recipe --line NAME > {directory}/lines/NAME.yaml", "a recipe to start from"),
        (f"sovereign lines check {directory}/lines/NAME.yaml", "what is to be filled in"),
        ("sovereign run NAME --until training_dataset", "the datasets, without training"),
    ]
    out.print(f"[green]✓[/] {escape(str(directory))}: institution.yaml, models/, suites/, red_team/, lines/, sources/")
    out.print("Next:")
    for command, what in steps:
        out.print(f"  [bold]{escape(command)}[/]   # {what}")
