"""Write the generated pages of this folder anew: `make docs`. A test holds each to what it is made from."""

from pathlib import Path

from sovereign_pipeline.cli import app
from sovereign_pipeline.commands.reference import command_line_markdown
from sovereign_pipeline.privacy.vault.vault_cli import app as vault_app

DOCS = Path(__file__).resolve().parent


def pages() -> dict[Path, str]:
    """Path of each generated page -> what it must hold."""
    return {DOCS / "command-line.md": command_line_markdown({"sovereign": app, "sovereign-vault": vault_app})}


if __name__ == "__main__":
    for path, text in pages().items():
        path.write_text(text, encoding="utf-8")
