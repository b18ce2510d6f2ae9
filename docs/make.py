"""Write the generated pages and schemas again: `make docs`. A test compares each with its source."""

import json
import re
from importlib.metadata import PackageMetadata, metadata
from pathlib import Path

from benchmarks.evaluation.judge_tables import judges_markdown
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.cli.reference import (
    EXPERIMENT,
    INSTITUTION,
    LINE,
    WORD_LISTS,
    command_line_markdown,
    json_schema,
    recipe_markdown,
)
from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.privacy.preview import how_found, how_found_markdown
from sovereign_pipeline.privacy.vault_cli import app as vault_app
from sovereign_pipeline.record.trust_cli import app as trust_app
from sovereign_pipeline.serving.gateway.parameters import KINDS, TABLES
from sovereign_pipeline.serving.transcripts_cli import app as transcripts_app
from sovereign_pipeline_tests.corpus.first_file import first_file_markdown
from sovereign_pipeline_tests.corpus.first_files import VARIANTS
from sovereign_pipeline_tests.corpus.mail_files import source_files_markdown
from sovereign_pipeline_tests.security_cases import security_cases_markdown
from sovereign_pipeline_tests.serving.gateway.clients import clients_markdown

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
            SCHEMAS / f"{each.name}.schema.json": json.dumps(json_schema(each), ensure_ascii=False, indent=2) + "\n"
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
    return PERSONAL_DATA + how_found_markdown(how_found(Privacy(), defaults)) + "\n"


def licences_markdown() -> str:
    pins = re.findall(r"^([\w.-]+)(?:\[[^]]*])?==([^\s;]+)", PINNED.read_text(encoding="utf-8"), re.MULTILINE)
    return LICENCES + "".join(f"| {name} | {version} | {_licence(metadata(name))} |\n" for name, version in pins)


def _licence(stated: PackageMetadata) -> str:
    classifiers = [each.split(" :: ")[-1] for each in stated.get_all("Classifier", []) if each.startswith("License ::")]
    first_line = (stated.get("License") or "").split("\n")[0]
    return stated.get("License-Expression") or "; ".join(classifiers) or first_line or "not stated"


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
