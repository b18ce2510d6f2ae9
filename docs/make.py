"""Write the generated pages and schemas again: `make docs`. A test compares each with its source."""

import json
from pathlib import Path

from benchmarks.evaluation.judge_tables import judges_markdown
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.cli.reference import INSTITUTION, LINE, WORD_LISTS, command_line_markdown, recipe_markdown
from sovereign_pipeline.policy.reference import json_schema
from sovereign_pipeline.privacy.vault_cli import app as vault_app
from sovereign_pipeline.record.trust_cli import app as trust_app
from sovereign_pipeline.serving.transcripts_cli import app as transcripts_app
from sovereign_pipeline_tests.corpus.first_file import first_file_markdown
from sovereign_pipeline_tests.corpus.first_files import FILES, ROWS_OF_FILES, TABLES
from sovereign_pipeline_tests.security_cases import security_cases_markdown

DOCS = Path(__file__).resolve().parent
REFERENCE = DOCS / "reference"
SCHEMAS = DOCS.parent / "data" / "schemas"


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
        REFERENCE / "first-file.md": first_file_markdown(FILES | TABLES | ROWS_OF_FILES),
        REFERENCE / "recipe.md": recipe_markdown(),
        REFERENCE / "security-cases.md": security_cases_markdown(),
        REFERENCE / "judges.md": judges_markdown(),
        **{
            SCHEMAS / f"{each.name}.schema.json": json.dumps(json_schema(each), ensure_ascii=False, indent=2) + "\n"
            for each in (LINE, INSTITUTION, WORD_LISTS)
        },
    }


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
