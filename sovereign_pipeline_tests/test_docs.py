"""Every relative link of the pages leads to a file and, where it names one, to a heading of that file."""

import re
import subprocess
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
