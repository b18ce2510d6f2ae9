"""Every command of the walk in `docs/how-to/verify.md` runs on a package, and prints what the page shows."""

import datetime
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.base.text import silent
from sovereign_pipeline.evidence.package import write_package
from sovereign_pipeline.record import checkpoints
from sovereign_pipeline.record.keys import FileSigner, read_key, read_public_file
from sovereign_pipeline.record.trust_changes import demonstration_trust
from sovereign_pipeline.serving.rollout.publishing import follow
from sovereign_pipeline_tests.conftest import LADDER, DemoInstitution
from sovereign_pipeline_tests.registry.bench import small_bench
from sovereign_pipeline_tests.release.conftest import Office

PAGE = PROJECT_ROOT / "docs" / "how-to" / "verify.md"
SECTION = "## Evidence to take away"
ADAPTER = "permits-desk-1.0.0"
END = "=== end of a command ==="
CHANGING = (
    (r"[0-9a-f]{64}", "DIGEST"),
    (r"[0-9a-f]{16}\b", "ID"),
    (r"\d{4}-\d\d-\d\d(T| )\d\d:\d\d(:\d\d)?(\.\d+)?(\+00:00)?", "MOMENT"),
    (r"\d{4}-\d\d-\d\d", "DAY"),
)
"""What another run prints otherwise."""


def documented() -> list[tuple[str, str]]:
    """Each command of the section with the output that the page shows."""
    section = PAGE.read_text(encoding="utf-8").split(SECTION)[1].split("\n## ")[0]
    commands: list[tuple[str, str]] = []
    for block in re.findall(r"^```\n(.*?)^```", section, re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            if line.startswith("$ "):
                commands.append((line.removeprefix("$ "), ""))
            else:
                commands[-1] = (commands[-1][0], f"{commands[-1][1]}{line}\n")
    return commands


def demonstration_package(institution: DemoInstitution, folder: Path) -> str:
    """A package of the demonstration's line and officers. Returns the first root's SHA-256."""
    institution.recipe["line"] = "permits-desk"
    institution.rules["release"] = {"blind_review": "not_required", "promote_without_hold": list(LADDER)}
    settings = institution.settings
    log = checkpoints.new_log()
    checkpoints.keep(settings, log)
    (institution.root / "log.pub").write_text(f"{log.verifier}\n")
    others = {"log": [read_public_file(institution.root / "log.pub")]}
    trust = demonstration_trust(settings.data / "trust", settings.keys, others)

    def key(name: str) -> FileSigner:
        return read_key(settings.keys / f"{name}.key", lambda: "")

    officers = {name: key(f"officer-{number}") for number, name in enumerate(("layla", "omar", "ines"), start=1)}
    bench = small_bench(institution)
    office = Office(bench, tuple(key(f"root-{number}") for number in (1, 2, 3)), officers, key("pipeline"))
    office.to_production(office.adapter())
    follow(office.registry, bench.workplace())
    write_package(office.registry, bench.store, settings, [ADAPTER], folder, silent, on=_today())
    office.registry.engine.dispose()
    return trust.root_sha256


def run(commands: list[str], folder: Path, root_sha256: str) -> list[str]:
    """What each command prints, one after the other in one shell, in the package's folder."""
    python = f"{Path(sys.executable).parent}"
    script = f"exec 2>&1\nROOT={root_sha256} DAY={_today()} PATH={python}:$PATH\n"
    script += "".join(f"{command}\necho '{END}'\n" for command in commands)
    done = subprocess.run(["bash", "-c", script], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.split(f"{END}\n")[:-1]


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()


def _steady(text: str) -> str:
    for pattern, name in CHANGING:
        text = re.sub(pattern, name, text)
    return re.sub(r" +", " ", text)


@pytest.mark.skipif(
    any(shutil.which(each) is None for each in ("jq", "cosign")), reason="jq or cosign is not installed"
)
def test_every_command_prints_what_the_page_shows(institution: DemoInstitution, tmp_path: Path) -> None:
    root_sha256 = demonstration_package(institution, tmp_path / "package")
    commands = documented()
    assert len(commands) >= 20
    printed = run([command for command, _ in commands], tmp_path / "package", root_sha256)
    for (command, shown), given in zip(commands, printed, strict=True):
        assert _steady(given) == _steady(shown), command
