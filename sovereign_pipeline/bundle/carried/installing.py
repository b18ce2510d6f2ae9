"""Installing from a bundle alone: a fresh environment at its final place, without a network or another source.

Every file is hashed once more while it is copied, since a medium may change after it was verified. pip then gets a list
of names, versions and digests that is made of what was verified, and neither its configuration nor its variables. What
belongs here: what lies where afterwards. What does not: whether a bundle is what was signed (`verifying.py`).
"""

import os
import platform
import re
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path, PurePosixPath

from sovereign_pipeline.bundle.carried.reading import Refused, each_block
from sovereign_pipeline.bundle.carried.trust import INDEX, TRUST
from sovereign_pipeline.bundle.carried.verifying import Bundle, Carried

WHEELS, SOURCE, ENVIRONMENT = "wheels", "release/source.tar", "release/.venv"
READY = f"{ENVIRONMENT}/.ready"
"""What the release's Makefile makes of an environment with everything in it, so that it does not install again."""
WHEEL = re.compile(r"([A-Za-z0-9_.]+)-([A-Za-z0-9_.+!]+)(?:-[0-9][^-]*)?-[^-]+-[^-]+-[^-]+\.whl")
PLACES: Mapping[str, str] = {
    TRUST: "data/trust",
    "configuration": "data",
    "models": "home/models",
    "suites": "home/suites",
    WHEELS: ".wheels",
}
"""Folder in the bundle -> folder below the target. Whatever else is carried goes to where its name says."""
SETTINGS = "environment"
"""A file of variables below the target, as systemd's `EnvironmentFile` takes it."""
SAFE_LINKS_NOTE = "An archive of a release holds files and folders alone."

Tell = Callable[[str], None]


def this_platform() -> str:
    """For which Python and machine the wheels of a bundle are."""
    return f"cpython-{sys.version_info[0]}.{sys.version_info[1]}-{sys.platform}-{platform.machine()}"


def install(bundle: Bundle, target: Path, tell: Tell) -> Path:
    """Install a verified bundle into a folder that is not there yet. Returns the environment's folder.

    Raises Refused where it is there: an environment is made where it stays, and never moved. What was begun is removed.
    """
    if bundle.platform != this_platform():
        raise Refused(
            f"The bundle is for {bundle.platform}, and this is {this_platform()}.", "Pack one for this machine."
        )
    if not hasattr(tarfile, "data_filter"):
        raise Refused(
            f"Python {platform.python_version()} unpacks archives without looking where their names lead.",
            "Install with Python 3.11.4 or a later 3.11.",
        )
    try:
        target.mkdir(parents=True)
    except FileExistsError:
        raise Refused(
            f"{target}: it is there already, and nothing is installed over it.", "Name a new folder."
        ) from None
    try:
        _install(bundle, target.resolve(), tell)
    except BaseException:
        shutil.rmtree(target, ignore_errors=True)
        raise
    return target / ENVIRONMENT


def _install(bundle: Bundle, target: Path, tell: Tell) -> None:
    tell(f"copying {len(bundle.files)} files")
    for carried in bundle.files:
        _copy(carried, target / place_of(carried.name))
    source = target / SOURCE
    tell("unpacking the release")
    _unpack(source, source.parent)
    wheels = [each for each in bundle.files if each.name.startswith(f"{WHEELS}/")]
    requirements = target / PLACES[WHEELS] / "requirements.txt"
    requirements.write_text("".join(f"{line}\n" for line in requirement_lines(wheels)))
    tell(f"installing {len(wheels)} wheels into {target / ENVIRONMENT}")
    _run(sys.executable, "-I", "-m", "venv", str(target / ENVIRONMENT), target=target)
    pip = (str(target / ENVIRONMENT / "bin" / "python"), "-I", "-m", "pip", "--isolated", "--disable-pip-version-check")
    alone = ("--no-index", "--no-deps", "--no-cache-dir", "--quiet")
    links = ("--find-links", str(requirements.parent))
    _run(*pip, "install", *alone, *links, "--require-hashes", "-r", str(requirements), target=target)
    _run(*pip, "install", *alone, "--no-build-isolation", "--editable", str(source.parent), target=target)
    _run(*pip, "check", target=target)
    (target / READY).touch()
    shutil.rmtree(requirements.parent)
    source.unlink()
    with (target / INDEX).open("xb") as stream:  # the next bundle is to be newer
        stream.writelines(each_block(bundle.directory / INDEX, bundle.index_sha256, None))
    variables = {"SOVEREIGN_HOME": target / "home", "SOVEREIGN_DATA": target / "data"}
    (target / SETTINGS).write_text("".join(f"{name}={path}\n" for name, path in variables.items()))


def place_of(name: str) -> PurePosixPath:
    """Where a file of the bundle lies below the target."""
    folder, _, rest = name.partition("/")
    return PurePosixPath(PLACES.get(folder, folder), rest) if rest else PurePosixPath(name)


def _copy(carried: Carried, to: Path) -> None:
    to.parent.mkdir(parents=True, exist_ok=True)
    with to.open("xb") as stream:
        for block in each_block(carried.path, carried.sha256, carried.size):
            stream.write(block)


def _unpack(archive: Path, into: Path) -> None:
    """Raises Refused for an archive with a link, a device or a name that leads elsewhere."""
    try:
        with tarfile.open(archive, "r:") as opened:
            for member in opened:
                if not (member.isreg() or member.isdir()):
                    raise Refused(f"{SOURCE}: {member.name!a} is no file.", SAFE_LINKS_NOTE)
                opened.extract(member, into, filter="data")
    except tarfile.TarError as error:
        raise Refused(f"{SOURCE}: it cannot be unpacked ({type(error).__name__}).", SAFE_LINKS_NOTE) from None


def requirement_lines(wheels: list[Carried]) -> Iterator[str]:
    """What pip is to install: each wheel by name, version and digest. Raises Refused for two of one project."""
    seen: set[str] = set()
    for carried in wheels:
        found = WHEEL.fullmatch(carried.name.partition("/")[2])
        if found is None:
            raise Refused(f"{carried.name}: this is no wheel's name.")
        project = re.sub(r"[-_.]+", "-", found[1]).lower()
        if project in seen:
            raise Refused(f"{carried.name}: there is another wheel of {project}, and one is installed.")
        seen.add(project)
        yield f"{project}=={found[2]} --hash=sha256:{carried.sha256}"


def _run(*command: str, target: Path) -> None:
    """Run pip or venv with nothing of this account's configuration: no index, no links, no constraints."""
    path = os.environ.get("PATH", os.defpath)
    alone = {"PATH": path, "HOME": str(target), "PIP_CONFIG_FILE": os.devnull, "PIP_NO_INDEX": "1", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(command, env=alone, cwd=target, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = " ".join((done.stdout + done.stderr).split())[-600:]
        raise Refused(f"{' '.join(command[3:6])} failed (status {done.returncode}): {said}", "Nothing was installed.")
