"""Links, modules, commands and options that the pages name exist, and the site builds."""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sovereign_pipeline.base.settings import PROJECT_ROOT

FENCED = re.compile(r"^ *```.*?^ *```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")


def pages() -> Iterator[Path]:
    listed = subprocess.run(["git", "ls-files", "*.md"], cwd=PROJECT_ROOT, capture_output=True, text=True, check=True)
    return (PROJECT_ROOT / name for name in listed.stdout.splitlines() if (PROJECT_ROOT / name).is_file())


def prose(page: Path) -> str:
    return FENCED.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """Ids of headings, as GitHub and the site make them, and those that are written out."""
    headings = re.findall(r"^#+ (.*)$", prose(page), re.MULTILINE)
    words = (re.sub(r"[^\w\s-]", "", heading.lower()).strip() for heading in headings)
    return {re.sub(r"\s", "-", each) for each in words} | set(re.findall(r'<a id="([^"]+)"', page.read_text("utf-8")))


@pytest.mark.parametrize("page", list(pages()), ids=lambda page: str(page.relative_to(PROJECT_ROOT)))
def test_every_link_leads_somewhere(page: Path) -> None:
    broken = []
    for target in LINK.findall(re.sub(r"`[^`\n]*`", "", prose(page))):
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        if "://" in target or target.startswith("mailto:"):
            continue
        if not file.exists() or (anchor and anchor not in anchors(file)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("page", list(pages()), ids=lambda page: str(page.relative_to(PROJECT_ROOT)))
def test_every_module_that_is_named_exists(page: Path) -> None:
    named = re.findall(r"`([\w./-]+/[\w.-]+\.py)`", prose(page))
    roots = [PROJECT_ROOT / name for name in ("", "sovereign_pipeline", "sovereign_pipeline_tests", "data")]
    assert not [name for name in named if not any((root / name).exists() for root in roots)]


def reference() -> dict[str, str]:
    """Each command -> its section of the generated reference, which `commands/reference` holds to the programs."""
    page = (PROJECT_ROOT / "docs" / "reference" / "command-line.md").read_text(encoding="utf-8")
    sections = re.split(r"^### (sovereign.*)$", page, flags=re.MULTILINE)[1:]
    return dict(zip(sections[::2], sections[1::2], strict=True))


def calls(page: Path) -> Iterator[str]:
    """Calls of our programs in code blocks and in inline code, each up to a pipe, a bracket, a comment or output."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = "\n".join(FENCED.findall(text))
    found = re.findall(r"^(?:\$ )?(sovereign(?:-\w+)? .*)$", blocks, re.MULTILINE)
    found += re.findall(r"`(sovereign(?:-\w+)? [^`]*)`", FENCED.sub("", text))
    yield from (re.split(r"[|#\[;>]|   +", each)[0].strip() for each in found)


@pytest.mark.parametrize("page", list(pages()), ids=lambda page: str(page.relative_to(PROJECT_ROOT)))
def test_every_command_and_option_exists(page: Path) -> None:
    known, unknown = reference(), []
    for call in calls(page):
        words = call.split()
        names = [" ".join(words[:length]) for length in range(4, 0, -1)]
        command = next((name for name in names if name in known), None)
        is_group = any(name.startswith(f"{call} ") for name in known) or words[1].startswith("--")
        options = {word.split("=")[0] for word in words if re.match(r"--[a-z]", word)} - {"--help", "--version"}
        if not is_group and (command is None or any(option not in known[command] for option in options)):
            unknown.append(call)
    assert not unknown


@pytest.mark.slow
def test_the_site_has_search_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    site = tmp_path / "site"
    subprocess.run([sys.executable, PROJECT_ROOT / "docs" / "site" / "build.py", site], check=True)
    loaded = re.compile(r"<(?:script|img|iframe)[^>]*\ssrc=[\"']?https?:|<link[^>]*rel=[\"']?stylesheet[^>]*https?:")
    built = list(site.rglob("*.html"))
    assert len(built) > 40 and (site / "search.js").stat().st_size > 100_000
    assert not [page for page in built if loaded.search(page.read_text(encoding="utf-8"))]
