"""The institution's own files as they are today: sources and suites that an adapter was made or evaluated with.

They lie outside the store and may change afterwards, so a difference is a note and not an error.

What belongs here: finding such a file again and comparing its digest. What does not: artifacts (`verification.py`).
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sovereign_pipeline.artifacts.hashing import file_sha256, short
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.errors import SovereignError
from sovereign_pipeline.evaluation.stages import CAPABILITY_SCORES, RED_TEAM_REPORT
from sovereign_pipeline.policy.institution import load_institution
from sovereign_pipeline.policy.line import Line, load_line
from sovereign_pipeline.settings import Settings
from sovereign_pipeline.suites.cards import load_suite_card, suite_files, suite_folder
from sovereign_pipeline.suites.items import digest_of_items
from sovereign_pipeline.suites.suites import identity_of_suite


@dataclass(frozen=True)
class Checked:
    """Something whose every byte was hashed and found as recorded."""

    what: str
    digest: str
    path: str
    files: int
    bytes: int
    """The manifest's included."""


Examined = Checked | str
"""A file as it was recorded, or the note about one that is not."""


def examine_sources(settings: Settings, sources: Iterable[Mapping[str, Any]]) -> Iterator[Examined]:
    """Each source file of the institution. `sources`: the rows of `sources.json`."""
    for source in sources:
        path, recorded = settings.data / source["path"], source["sha256"]
        subject = f"{path}: the source '{source['name']}' ({short(recorded)})"
        if not path.is_file():
            yield f"{subject} is no longer there."
        elif file_sha256(path) != recorded:
            yield f"{subject} was changed since it was read."
        else:
            yield _checked("source_file", recorded, path, [path])


def examine_suites(settings: Settings, ancestors: Iterable[Artifact]) -> Iterator[Examined]:
    """Each suite and each file of the red team with which an adapter was scored. `ancestors`: of its record.

    A manifest holds a suite's name and digest and not its path, which today's recipe gives.
    """
    for artifact in ancestors:
        if artifact.manifest.kind not in (CAPABILITY_SCORES.kind, RED_TEAM_REPORT.kind):
            continue
        name = artifact.manifest.line
        try:
            line = load_line(settings.data, name, load_institution(settings.data))
        except SovereignError as error:
            yield f"Line {name}: the suites were not read, because the recipe is not readable: {error.message}"
            continue
        for suite, recorded in artifact.manifest.external_inputs.items():
            if ":" not in suite:  # the others are incumbents and name models
                yield _examine_suite(settings, line, artifact.manifest.kind, suite, recorded)


def _examine_suite(settings: Settings, line: Line, kind: str, name: str, recorded: str) -> Examined:
    subject = f"'{name}' of {kind} ({short(recorded)})"
    try:
        found = _find_suite(settings, line, kind, name)
    except SovereignError as error:
        return f"{subject} is not readable: {error.message}"
    if found is None:
        return f"Line {line.line}: {subject} is no longer in the recipe."
    if found.digest != recorded:
        return f"{found.path}: {subject} was changed since it was used."
    return _checked("suite_file", recorded, found.path, found.files)


@dataclass(frozen=True)
class _Suite:
    path: Path
    digest: str
    files: list[Path]


def _find_suite(settings: Settings, line: Line, kind: str, name: str) -> _Suite | None:
    """What today's recipe calls by this name, or None. Raises SovereignError when it is missing or damaged."""
    if kind == RED_TEAM_REPORT.kind:
        red_team = line.evaluation.red_team
        named = {"prompts": red_team.prompts, "judge_labels": red_team.judge_labels}
        if name not in named:
            return None
        path = settings.data / named[name]
        return _Suite(path, digest_of_items(path), [path])
    entry = next((each for each in line.evaluation.capability if each.name == name), None)
    if entry is None:
        return None
    digest = identity_of_suite(settings, entry)
    if entry.suite is None:
        path = settings.data / entry.own_path
        return _Suite(path, digest, [path])
    card = load_suite_card(settings, entry.suite)
    return _Suite(suite_folder(settings, card), digest, list(suite_files(settings, card).values()))


def _checked(what: str, digest: str, path: Path, files: list[Path]) -> Checked:
    return Checked(what, digest, str(path), len(files), sum(file.stat().st_size for file in files))
