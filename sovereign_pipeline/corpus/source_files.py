"""The source files of a line: where they lie, their digests, and the readers that go through them together.

What belongs here: all files of a line at once. What does not: one file (`file_formats.py`), one row of it
(`documents_from_rows.py`), what becomes of the documents (`stages.py`).
"""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from sovereign_pipeline.artifacts.stage import Config, Workplace
from sovereign_pipeline.base.errors import SourceError
from sovereign_pipeline.base.files import file_sha256
from sovereign_pipeline.corpus.columns import ColumnScreen
from sovereign_pipeline.corpus.documents_from_rows import SourceReader
from sovereign_pipeline.corpus.links import LinkTally
from sovereign_pipeline.corpus.opening import refuse_no_file
from sovereign_pipeline.policy.corpus import Source


def source_path(workplace: Workplace, source: Source) -> Path:
    """Where the institution's file of a source lies."""
    return workplace.settings.data / source.path


def source_digests(workplace: Workplace) -> dict[str, str]:
    return {f"source:{source.name}": _digest_of_source(workplace, source) for source in workplace.line.sources}


def _digest_of_source(workplace: Workplace, source: Source) -> str:
    path = source_path(workplace, source)
    if not path.exists():
        raise SourceError(
            f"Line {workplace.line.line}: the file of source '{source.name}' is missing at {path}.",
            "Correct `path` in the recipe, or put the file there.",
        )
    refuse_no_file(path)
    return file_sha256(path)


@dataclass(frozen=True)
class Readers:
    """The readers of a line's sources, in the order of the recipe."""

    of_sources: tuple[SourceReader, ...]
    tally: LinkTally | None

    def described(self, digests: Mapping[str, str]) -> list[dict[str, Any]]:
        """The rows of `sources.json`, once all are read. digests: of `source_digests`."""
        return [self._described(reader, digests[f"source:{reader.source.name}"]) for reader in self.of_sources]

    def _described(self, reader: SourceReader, sha256: str) -> dict[str, Any]:
        count = reader.count
        if self.tally is not None:
            count.links, count.links_without_row = self.tally.of(reader.source.name)
            count.links_to_itself = self.tally.to_themselves(reader.source.name)
        terms = reader.source.model_dump(mode="json", include={"name", "path", "role", "licence", "retention"})
        return {**terms, "sha256": sha256, **asdict(count)}


def readers_of(workplace: Workplace, config: Config, secret: Callable[[], bytes] | None = None) -> Readers:
    """A reader for each source, in the order of the recipe.

    Args:
        config: of the raw corpus at this workplace.
        secret: gives the secret of the columns' keys; None: that of the workplace.
    """
    line, ladder, seen = workplace.line, workplace.institution.ladder, set[str]()
    screen = ColumnScreen.of(config, workplace.kinds_in_columns, secret or workplace.column_secret)
    tally = LinkTally() if any(source.links for source in line.sources) else None

    def reader_of(source: Source, **of_line: Any) -> SourceReader:
        path, needs_author = source_path(workplace, source), line.split.by_author
        return SourceReader(source, path, line.quarantine, ladder, seen, needs_author=needs_author, **of_line)

    @cache
    def known_ids() -> frozenset[str]:
        return frozenset(key for source in line.sources for key in reader_of(source).row_keys())

    readers = (reader_of(each, tally=tally, screen=screen, known_ids=known_ids) for each in line.sources)
    return Readers(tuple(readers), tally)
