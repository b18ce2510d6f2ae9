"""The institution's own files as they are today: sources and suites that an adapter was made or evaluated with.

They lie outside the store and may change afterwards, so a difference is no error. That of a source is an outcome of its
own, that of a suite a note.

What belongs here: finding such a file again and comparing its digest. What does not: artifacts (`verification.py`).
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.base.errors import SovereignError
from sovereign_pipeline.base.files import short
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import counted
from sovereign_pipeline.corpus.changed_sources import ChangedSource, changed_sources
from sovereign_pipeline.corpus.columns import ColumnScreen
from sovereign_pipeline.corpus.stages import DOCUMENTS, read_sources
from sovereign_pipeline.evaluation.stages import CAPABILITY_SCORES, RED_TEAM_REPORT
from sovereign_pipeline.policy.institution import load_institution
from sovereign_pipeline.policy.line import Line, load_line
from sovereign_pipeline.privacy.columns import column_secret, kinds_in_columns
from sovereign_pipeline.suites.cards import load_suite_card, suite_files, suite_folder
from sovereign_pipeline.suites.rows import digest_of_items
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


@dataclass(frozen=True)
class Withheld:
    """Files with unscrubbed text that were not read, because the corpus root is not readable here."""

    what: str
    digest: str
    files: int
    bytes: int

    def __str__(self) -> str:
        files = counted(self.files, "file")
        return f"{self.what} {short(self.digest)}: {files} with unscrubbed text, withheld here and not verified"


Examined = Checked | ChangedSource | str
"""A file as it was recorded, a source that is not, or the note about a suite that is not."""


def examine_sources(settings: Settings, raw_corpus: Artifact) -> Iterator[Checked | ChangedSource]:
    """Each source file of the institution from which a raw corpus was read."""
    sources = read_sources(raw_corpus)
    documents = raw_corpus.file(DOCUMENTS) if not raw_corpus.withheld else None
    config = raw_corpus.manifest.producer.config
    screen = ColumnScreen.of(config, kinds_in_columns, partial(column_secret, settings, create=False))
    found = changed_sources(settings.data, raw_corpus.manifest, sources, documents, screen)
    changed = {each.name: each for each in found}
    for source in sources:
        path = settings.data / source["path"]
        yield changed.get(source["name"]) or _checked("source_file", source["sha256"], path, [path])


def examine_suites(settings: Settings, ancestors: Iterable[Artifact]) -> Iterator[Checked | str]:
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


def _examine_suite(settings: Settings, line: Line, kind: str, name: str, recorded: str) -> Checked | str:
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
        red_team = line.named_evaluation.red_team
        named = {"prompts": red_team.prompts, "judge_labels": red_team.judge_labels}
        if name not in named:
            return None
        path = settings.data / named[name]
        return _Suite(path, digest_of_items(path), [path])
    entry = next((each for each in line.named_evaluation.capability if each.name == name), None)
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
