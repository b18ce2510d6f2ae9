"""Which files of this installation are carried: base models, suites, trust root, configuration, and the release.

Documents never are: `data/sources/` stays where it is. What belongs here: finding the files, each compared with what
pins it. What does not: wheels (`wheels.py`), and how they are packed (`packing.py`).
"""

import subprocess
from collections.abc import Iterator
from pathlib import Path

from sovereign_pipeline.base.errors import InputError, SourceError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base_models.pinned import load_card, model_directory, verify
from sovereign_pipeline.bundle.packing import Content
from sovereign_pipeline.record.officers import TRUST
from sovereign_pipeline.record.stage import Progress
from sovereign_pipeline.record.trust_root import read_files
from sovereign_pipeline.suites.cards import load_suite_card, suite_digest, suite_files, suite_folder, suite_names

NOT_CARRIED = frozenset({"sources", TRUST})
"""Folders of `data/`: the documents; and the trust root, which stands apart."""


def trust_root_files(settings: Settings) -> Iterator[Content]:
    for name, content in read_files(settings.data / TRUST).items():
        yield Content(f"trust/{name}", content, "signed by the holders of the root keys")


def configuration(settings: Settings) -> Iterator[Content]:
    """What the institution edits, without documents and base models. Raises InputError for a link."""
    models = [model_directory(settings, load_card(settings, name)) for name in _cards(settings)]
    for path in sorted(settings.data.rglob("*")):
        relative = path.relative_to(settings.data)
        if relative.parts[0] in NOT_CARRIED or any(path.is_relative_to(model) for model in models):
            continue
        if path.is_symlink():
            raise InputError(f"{path}: it is a link, and links are not carried.", "Put the file itself there.")
        if path.is_file():
            yield Content(f"configuration/{relative.as_posix()}", path, "of this institution")


def base_models(settings: Settings, progress: Progress) -> Iterator[Content]:
    """Every model that has a card. Raises IntegrityError for a file that is not the pinned one."""
    for name in _cards(settings):
        card = load_card(settings, name)
        verify(settings, card, progress)
        directory, at = model_directory(settings, card), f"models/{name}"
        if card.source.directory is not None and not card.source.directory.is_absolute():
            at = f"configuration/{card.source.directory.as_posix()}"
        for file in sorted(card.files):
            yield Content(f"{at}/{file}", directory / file, f"pinned by the card of {name}")


def suites(settings: Settings, progress: Progress) -> Iterator[Content]:
    """Every suite that has a card and whose files are in the mirror."""
    for name in suite_names(settings):
        card = load_suite_card(settings, name)
        try:
            files = suite_files(settings, card)
        except SourceError:
            progress(f"suite {name}: not in the mirror, so not carried")
            continue
        suite_digest(settings, card)
        origin = f"pinned by the card of {name}" if card.sha256 else f"not pinned: the card of {name} has no digest"
        for file, path in files.items():
            yield Content(f"suites/{suite_folder(settings, card).name}/{file}", path, origin)


def release(project: Path) -> Content:
    """The source of this release, as it is committed. Raises InputError where it is not."""
    if not (project / ".git").exists():
        raise InputError(f"{project}: this is no checkout.", "Pack from a checkout of the release.")
    if _git(project, "status", "--porcelain", "--untracked-files=no"):
        raise InputError(f"{project}: files differ from the commit.", "Commit, so that it is known what is carried.")
    commit = _git(project, "rev-parse", "HEAD").decode().strip()
    return Content("release/source.tar", _git(project, "archive", "--format=tar", "HEAD"), f"commit {commit}")


def _cards(settings: Settings) -> list[str]:
    return sorted(path.stem for path in (settings.data / "models").glob("*.yaml"))


def _git(project: Path, *arguments: str) -> bytes:
    done = subprocess.run(("git", "-C", str(project), *arguments), capture_output=True, check=False)
    if done.returncode != 0:
        raise InputError(f"{project}: git {arguments[0]} failed (status {done.returncode}).", "Pack from a checkout.")
    return done.stdout
