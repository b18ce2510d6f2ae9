"""Every command of `docs/how-to/release.md` runs, in its order, and ends as the page shows."""

import re
import shlex

import pytest
from typer.testing import CliRunner

from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.record.trust_changes import demonstration_trust
from sovereign_pipeline_tests.conftest import DemoInstitution, letter
from sovereign_pipeline_tests.registry.bench import small_bench

pytestmark = pytest.mark.slow

PAGE = PROJECT_ROOT / "docs" / "how-to" / "release.md"
REQUEST = re.compile(r"(?:approve|reject|withdraw) ([0-9a-f]{12})")


def _documented() -> list[tuple[str, str]]:
    """Each command with the output that the page shows."""
    blocks = re.findall(r"^```\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    commands: list[tuple[str, str]] = []
    for line in (line for block in blocks for line in block.splitlines()):
        if line.startswith("$ "):
            commands.append((line.removeprefix("$ "), ""))
        elif commands:
            commands[-1] = (commands[-1][0], f"{commands[-1][1]}{line}\n")
    return commands


def test_every_command_of_the_page_ends_as_it_shows(
    institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch
) -> None:
    institution.recipe["line"] = "permits-desk"
    institution.rules["release"] = {"blind_review": "not_required"}
    institution.rows = [letter(number) for number in range(11)] + [letter(11, id="PRM-0001")]
    bench = small_bench(institution)
    bench.register()
    demonstration_trust(bench.settings.data / "trust", bench.settings.keys)
    monkeypatch.chdir(institution.root)  # the page writes a file
    for variable, path in (("HOME", "home"), ("DATA", "data"), ("VAULT", "vault")):
        monkeypatch.setenv(f"SOVEREIGN_{variable}", str(institution.root / path))
    requests: dict[str, str] = {}
    newest, run = "", 0
    for command, shown in _documented():
        if not command.startswith("sovereign "):
            continue
        for documented in REQUEST.findall(command):
            command = command.replace(documented, requests.setdefault(documented, newest))
        arguments = shlex.split(command.replace("$KEYS", str(bench.settings.keys)))[1:]
        answer = CliRunner().invoke(app, arguments)
        assert (answer.exit_code != 0) == ("✗" in shown), f"{command}\n{answer.output}{answer.exception}"
        run += 1
        for found in re.findall(r"request ([0-9a-f]{12})", answer.output):
            newest = found
        if "Demonstration Officer 3 rejected it" in shown or "was made on" in shown:
            assert shown.strip().splitlines()[-1].split(" on ")[0] in answer.output
    assert run >= 20
