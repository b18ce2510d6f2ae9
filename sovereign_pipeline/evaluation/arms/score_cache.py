"""What the arms gave, kept by the digest of all that decides it: base and incumbent are not asked the same again.

What belongs here: what that digest covers, and the form of what is kept. Each is an artifact of its own, since answers
hold generated text and scores inherit a level: so they lie where the store protects them, are verified whenever they
are read, and are written whole or not at all. What the candidate gave is kept like the rest: it may be the next
incumbent.
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

# The modules that make a score or an answer out of an item. Taken as they stand, not by a version that somebody must
# remember to raise.
CODE = ("harness.py", "models.py", "token_tree.py")

CachedKind = Literal["cached_scores", "cached_answers"]

Row = TypeVar("Row")


@dataclass(frozen=True)
class Origin:
    """What one arm is. digests: of the base model's files, and of the artifact that was tuned from it. classification:
    the higher of both."""

    digests: Mapping[str, str]
    classification: str


@dataclass(frozen=True)
class ScoreCache:
    """What one session finds and keeps. asked: the level of what is asked in it. items: (arm, "kept" or "computed") ->
    number of items."""

    workplace: Workplace
    asked: str
    origins: Mapping[Arm, Origin]
    items: Counter[tuple[Arm, str]] = field(default_factory=Counter)

    @property
    def measured(self) -> dict[str, float]:
        """`<arm>_items_kept` and `<arm>_items_computed`, as a stage states what its work took."""
        return {f"{arm}_items_{how}": float(count) for (arm, how), count in sorted(self.items.items())}

    def get_or_compute(
        self,
        kind: CachedKind,
        arm: Arm,
        asked: Sequence[Any],
        settings: Config,
        form: TypeAdapter[list[Row]],
        compute: Callable[[], list[Row]],
    ) -> list[Row]:
        """What the arm gave to exactly this before, or what `compute` says now, which is then kept.

        asked: JSON of each item, all that is asked, in order. settings: all else that decides the result. form: of the
        result, one row an item. The level is part of what decides, so that nothing is found that is higher than what it
        would be made of here. Raises IntegrityError when what is kept was changed.
        """
        origin = self.origins[arm]
        part = Part(
            kind=kind,
            code_version=digest_of({name: file_sha256(Path(__file__).with_name(name)) for name in CODE}),
            config=settings,
            inputs={**origin.digests, "asked": digest_of(list(asked))},
            libraries=LIBRARIES,
            classification=self.workplace.institution.ladder.highest((origin.classification, self.asked)),
        )

        def build(workspace: Path) -> dict[str, int]:
            computed = form.dump_python(compute(), mode="json")
            (workspace / ROWS_FILE).write_bytes(b"".join(canonical_json(each) + b"\n" for each in computed))
            return {"items": len(computed)}

        production = make_part(self.workplace, part, build)
        if production.reused:
            self.workplace.progress(f"{arm}: {len(asked)} items are kept from before.")
        self.items[arm, "kept" if production.reused else "computed"] += len(asked)
        return _read(self.workplace.store.open(production.ref).file(ROWS_FILE), form, len(asked))


def _read(path: Path, form: TypeAdapter[list[Row]], asked: int) -> list[Row]:
    try:
        rows = form.validate_python(list(read_jsonl(path)))
    except ValueError:  # pydantic's error is one too
        rows = []
    if len(rows) != asked:
        raise IntegrityError(
            f"{path}: does not hold one result for each of {asked} items. Restore the directory from a copy, or remove "
            f"it; they will be worked out again."
        )
    return rows
