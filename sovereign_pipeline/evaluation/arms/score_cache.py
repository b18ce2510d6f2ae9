"""Cached scores and answers, found by the digest of everything that decides them.

What belongs here: what that digest covers, and the stored form. Each entry is an artifact of its own, since answers
hold generated text and scores inherit a classification level: the store protects it, verifies it on every read, and
writes it whole or not at all. The candidate's entries are cached too: it may be the next incumbent.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import TypeAdapter

from sovereign_pipeline.artifacts.hashing import canonical_json, digest_of, file_sha256
from sovereign_pipeline.artifacts.production import Part, make_part
from sovereign_pipeline.artifacts.stage import Config, Workplace
from sovereign_pipeline.corpus.document import read_jsonl
from sovereign_pipeline.errors import IntegrityError
from sovereign_pipeline.evaluation.arms.arms import Arm

ROWS_FILE = "rows.jsonl"

LIBRARIES = ("lm-eval", "peft", "tokenizers", "torch", "transformers")

SOURCES = Path(__file__).parent
"""This package, whose sources decide a score; with their digest no version must be raised by hand."""

CachedKind = Literal["cached_scores", "cached_answers"]

Row = TypeVar("Row")


@dataclass(frozen=True)
class Origin:
    """What identifies one arm."""

    digests: Mapping[str, str]
    """Of the base model's files, and of the artifact that was tuned from it."""
    classification: str
    """The higher level of both."""


@dataclass(frozen=True)
class ScoreCache:
    """The cache of one session, in which some arms are asked."""

    workplace: Workplace
    level: str
    """Classification level of the items of this session."""
    origins: Mapping[Arm, Origin]
    items: Counter[tuple[Arm, str]] = field(default_factory=Counter)
    """(arm, "kept" or "computed") -> number of items: found in the cache, or computed and cached."""

    @property
    def measured(self) -> dict[str, float]:
        """`<arm>_items_kept` and `<arm>_items_computed`, for a stage's `measured`."""
        return {f"{arm}_items_{how}": float(count) for (arm, how), count in sorted(self.items.items())}

    def get_or_compute(
        self,
        kind: CachedKind,
        arm: Arm,
        items: Sequence[Any],
        settings: Config,
        form: TypeAdapter[list[Row]],
        compute: Callable[[], list[Row]],
    ) -> list[Row]:
        """The cached result for exactly these items, or that of `compute`, which is then cached.

        The level is part of the identity, so an entry is never higher than one computed here would be. Raises
        IntegrityError when an entry was changed.

        Args:
            items: JSON of each item, in order.
            settings: everything else that decides the result.
            form: type of the result, one row an item.
        """
        origin = self.origins[arm]
        part = Part(
            kind=kind,
            code_version=sources_digest(SOURCES),
            config=settings,
            inputs={**origin.digests, "items": digest_of(list(items))},
            libraries=LIBRARIES,
            classification=self.workplace.institution.ladder.highest((origin.classification, self.level)),
        )

        def build(workspace: Path) -> dict[str, int]:
            computed = form.dump_python(compute(), mode="json")
            (workspace / ROWS_FILE).write_bytes(b"".join(canonical_json(each) + b"\n" for each in computed))
            return {"items": len(computed)}

        production = make_part(self.workplace, part, build)
        self.items[arm, "kept" if production.reused else "computed"] += len(items)
        return _read(self.workplace.store.open(production.ref).file(ROWS_FILE), form, len(items))


def sources_digest(package: Path) -> str:
    """SHA-256 over the paths and bytes of a package's Python sources."""
    return digest_of({str(file.relative_to(package)): file_sha256(file) for file in sorted(package.rglob("*.py"))})


def _read(path: Path, form: TypeAdapter[list[Row]], items: int) -> list[Row]:
    try:
        rows = form.validate_python(list(read_jsonl(path)))
    except ValueError:  # pydantic's error is one too
        rows = []
    if len(rows) != items:
        raise IntegrityError(
            f"{path} does not hold one result for each of {items} items.",
            "Restore the directory from a copy, or remove it; the results are then computed again.",
        )
    return rows
