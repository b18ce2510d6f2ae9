"""Getting the wheels of a release, on the connected side: pip downloads what `requirements/` pins, by SHA-256.

The few distributions that are published as source alone are built here, from the source that is pinned, so that nothing
is built inside. What belongs here: that. What does not: installing them (`carried/installing.py`).
"""

import os
import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from sovereign_pipeline.base.errors import IntegrityError, NotFoundError
from sovereign_pipeline.base.files import file_sha256
from sovereign_pipeline.bundle.packing import Content
from sovereign_pipeline.record.stage import Progress

BUILD = "build.txt"
PIN = re.compile(r"--hash=sha256:([0-9a-f]{64})")
PUBLISHED = "pinned by requirements/"
"""The origin of a wheel that was downloaded as its publisher made it."""
QUIET = ("--quiet", "--disable-pip-version-check", "--no-input")


def wheels(requirements: Path, names: Sequence[str], into: Path, progress: Progress) -> list[Content]:
    """The wheels that some of the locks pin, with `build.txt`'s.

    Args:
        requirements: the folder of the locks. names: of these, such as `runtime.txt`.
        into: an empty folder on the disk where the bundle will be.

    Raises NotFoundError where pip cannot get one, and IntegrityError for one that no lock pins.
    """
    published, built = into / "published", into / "built"
    for folder in (published, built):
        folder.mkdir(parents=True)
    pins = {pin for name in (BUILD, *names) for pin in PIN.findall((requirements / name).read_text(encoding="utf-8"))}
    for name in (BUILD, *names):
        progress(f"downloading what {name} pins")
        lock = ("--require-hashes", "--no-deps", "--no-build-isolation", "-r", str(requirements / name))
        _pip("download", "--dest", str(published), *lock)
    for archive in sorted(published.iterdir()):
        if file_sha256(archive) not in pins:
            raise IntegrityError(f"{archive.name}: no lock pins these bytes.", "Find out where pip took them from.")
        if archive.suffix != ".whl":
            progress(f"building a wheel of {archive.name}")
            alone = ("--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", str(built))
            _pip("wheel", *alone, str(archive))
    return [*_contents(published, PUBLISHED), *_built(published, built)]


def _contents(folder: Path, origin: str) -> Iterator[Content]:
    for path in sorted(folder.glob("*.whl")):
        yield Content(f"wheels/{path.name}", path, origin)


def _built(published: Path, built: Path) -> list[Content]:
    archives = [path for path in published.iterdir() if path.suffix != ".whl"]
    found = list(_contents(built, "built when packed, from a source archive that requirements/ pins"))
    if len(found) != len(archives):
        raise NotFoundError(f"Of {len(archives)} source archives {len(found)} wheels were built.", "See pip's output.")
    return found


def _pip(act: str, *options: str) -> None:
    """Run the pip of this environment, which `make` installed, and the setuptools, as `build.txt` pins them."""
    command = (sys.executable, "-m", "pip", act, *QUIET, *options)
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "315532800"}  # what is built then has the same bytes each time
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NotFoundError(
            f"pip {act} failed (status {done.returncode}): {' '.join(done.stderr.split())[-500:]}",
            "Check the package index that pip is configured with.",
        )
