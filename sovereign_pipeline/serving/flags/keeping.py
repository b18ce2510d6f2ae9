"""Keeping flags and ledger together while a gateway runs: each follows the other, and what is wrong is said.

Where this installation has the pipeline's key, flags are written as soon as officers decided, and the ledger gets what
was done without it. Without the key the two are compared alone. What belongs here: that look, again and again. What
does not: what a flag must say (`publishing.py`).
"""

from collections.abc import Callable, Iterator
from pathlib import Path

from sqlalchemy import func, select

from sovereign_pipeline.artifacts.stage import Workplace
from sovereign_pipeline.base.errors import IntegrityError, SovereignError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.ledger.database import Registry
from sovereign_pipeline.ledger.states import lines_in
from sovereign_pipeline.ledger.tables import AuditEntry
from sovereign_pipeline.release.hold_judgements import judgement_files
from sovereign_pipeline.serving.flags.files import lines_with_flags, sequences
from sovereign_pipeline.serving.flags.in_force import Flags
from sovereign_pipeline.serving.flags.journal import on_record
from sovereign_pipeline.serving.flags.publishing import follow
from sovereign_pipeline.signing.officers import PIPELINE_KEY_FILE

Seen = tuple[object, ...]
WorkplaceOf = Callable[[str], Workplace]
"""Line -> its workplace."""


class Keeper:
    """Looks at flags and ledger for one gateway."""

    def __init__(
        self, settings: Settings, flags: Flags, registry: Callable[[], Registry], workplace_of: WorkplaceOf
    ) -> None:
        self._settings = settings
        self._workplace_of = workplace_of
        self._flags = flags
        self._registry = registry
        self._seen: Seen | None = None

    def look(self) -> None:
        """Raises SovereignError where a flag cannot be followed or believed; every other line is kept all the same."""
        registry = self._registry()
        with registry.reading() as session:
            self._flags.compare_with(on_record(session))
            entries = session.scalar(select(func.count()).select_from(AuditEntry)) or 0
        seen = (entries, *self._facts())
        wrong: list[str] = []
        if seen != self._seen and (self._settings.keys / PIPELINE_KEY_FILE).is_file():
            wrong += self._follow(registry)
            self._seen = None if wrong else (entries, *self._facts())
        wrong += self._flags.problems().values()
        if wrong:
            raise IntegrityError(" ".join(dict.fromkeys(wrong)), "What was in force before stays in force.")

    def _follow(self, registry: Registry) -> Iterator[str]:
        for line in lines_to_follow(registry, self._settings):
            try:
                follow(registry, self._workplace_of(line))
            except SovereignError as error:
                yield error.message

    def _facts(self) -> Seen:
        rules = self._settings.data / "institution.yaml"
        numbers = [
            (line, tuple(sequences(self._settings, line)), len(judgement_files(self._settings, line)))
            for line in lines_with_flags(self._settings)
        ]
        return (_content(rules), *numbers)


def lines_to_follow(registry: Registry, settings: Settings) -> list[str]:
    """Lines that have a flag, or an adapter that is staged or in production."""
    with registry.reading() as session:
        return sorted({*lines_in(session, {"staged", "production"}), *lines_with_flags(settings)})


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""
