"""What a person judged of a sample of scrubbed rows, and what it says about the whole corpus.

What belongs here: keeping judgements beside the scrubbed corpus that they are of, and the estimate. What does not:
showing rows and asking (`preview.py`, `commands/privacy.py`). A judgement holds counts by row id, never text.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sovereign_pipeline.artifacts.hashing import canonical_json, digest_of
from sovereign_pipeline.artifacts.making import Identity, make_artifact
from sovereign_pipeline.artifacts.manifest import ArtifactRef
from sovereign_pipeline.artifacts.stage import Built, Workplace
from sovereign_pipeline.corpus.document import read_documents
from sovereign_pipeline.corpus.stages import DOCUMENTS
from sovereign_pipeline.errors import InputError
from sovereign_pipeline.frozen import Frozen
from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.privacy.placeholders import AUTHOR
from sovereign_pipeline.privacy.preview import PreviewedRow

JUDGEMENT = "privacy_judgement"
JUDGEMENT_FILE = "judgement.json"


class JudgedRow(Frozen):
    """One row, as a person saw it: how many values of each kind were replaced rightly, wrongly, and missed."""

    id: str
    right: dict[Kind, int]
    wrong: dict[Kind, int]
    missed: dict[Kind, int]


class Judgement(Frozen):
    """What one person judged at one time."""

    judge: str
    """As typed on the command line; not proved here."""
    seed: int
    """That drew the rows."""
    rows: tuple[JudgedRow, ...]


@dataclass(frozen=True)
class Share:
    """A share with its 95 % interval by Wilson 1927; from 0 to 1 of none."""

    hits: int
    of: int

    @property
    def bounds(self) -> tuple[float, float]:
        from scipy.stats import binomtest

        if self.of == 0:
            return 0.0, 1.0
        low, high = binomtest(self.hits, self.of).proportion_ci(0.95, method="wilson")
        return float(low), float(high)

    def __str__(self) -> str:
        if self.of == 0:
            return "none judged"
        low, high = self.bounds
        return f"{self.hits / self.of:.2f} ({low:.2f} to {high:.2f})"


@dataclass(frozen=True)
class Estimate:
    """What the judged rows say. Values count as independent: rows that hold many make intervals too narrow."""

    rows: int
    right: Counter[Kind]
    wrong: Counter[Kind]
    missed: Counter[Kind]

    @property
    def judged(self) -> int:
        """How many replaced values were judged."""
        return self.right.total() + self.wrong.total()

    def precision(self, kinds: Iterable[Kind] | None = None) -> Share:
        """Of what was replaced, how much is personal data: of these kinds, or of all."""
        right, wrong = self._of(self.right, kinds), self._of(self.wrong, kinds)
        return Share(right, right + wrong)

    def recall(self, kinds: Iterable[Kind] | None = None) -> Share:
        """Of the personal data, how much was replaced."""
        right, missed = self._of(self.right, kinds), self._of(self.missed, kinds)
        return Share(right, right + missed)

    @property
    def kinds(self) -> list[Kind]:
        """Those that were judged at all."""
        return sorted(self.right.keys() | self.wrong.keys() | self.missed.keys())

    def _of(self, counts: Mapping[Kind, int], kinds: Iterable[Kind] | None) -> int:
        return sum(counts.values()) if kinds is None else sum(counts.get(kind, 0) for kind in kinds)


def estimate_of(rows: Iterable[JudgedRow]) -> Estimate:
    """The counts of these rows; of a row that was judged twice, the last judgement."""
    last = {row.id: row for row in rows}.values()
    right, wrong, missed = (
        sum((Counter(getattr(row, name)) for row in last), Counter()) for name in ("right", "wrong", "missed")
    )
    return Estimate(len(last), right, wrong, missed)


def judged_row(row: PreviewedRow, wrong: Iterable[str], missed: Sequence[Kind]) -> JudgedRow:
    """A person's judgement of one row. The column of the author does not count: it is always replaced.

    Args:
        wrong: placeholders that took the place of what is no personal data; each counts as often as it stands there.
        missed: kinds of what is still there, one for each value.
    """
    replaced = [found for field in row.fields if field.name != AUTHOR for found in field.replaced]
    named = set(wrong)
    return JudgedRow(
        id=row.id,
        right=dict(Counter(found.kind for found in replaced if found.placeholder not in named)),
        wrong=dict(Counter(found.kind for found in replaced if found.placeholder in named)),
        missed=dict(Counter(missed)),
    )


def record_judgement(workplace: Workplace, scrubbed: ArtifactRef, judgement: Judgement) -> ArtifactRef:
    """Keep a judgement of a scrubbed corpus in the store."""
    content = judgement.model_dump(mode="json")
    number = len(judgements_of(workplace, scrubbed)) + 1  # the same judgement once more is another one
    identity = Identity(
        kind=JUDGEMENT,
        line=workplace.line.line,
        ladder=workplace.institution.classification,
        code_version="1",
        config={"judgement": digest_of(content), "number": number},
        inputs={scrubbed.kind: scrubbed},
        external_inputs={},
        libraries={},
    )

    def build(workspace: Path) -> Built:
        (workspace / JUDGEMENT_FILE).write_bytes(canonical_json(content) + b"\n")
        return Built(summary={"rows": len(judgement.rows)})

    return make_artifact(workplace, identity, build).ref


def judgements_of(workplace: Workplace, scrubbed: ArtifactRef) -> list[ArtifactRef]:
    """The judgements of a scrubbed corpus, oldest first."""
    store = workplace.store
    made = [(store.read_manifest(ref), ref) for ref in store.indexed(JUDGEMENT)]
    of_it = [
        (manifest.circumstances.created_at, ref)
        for manifest, ref in made
        if store.input_ref(manifest, scrubbed.kind).digest == scrubbed.digest
    ]
    return [ref for _, ref in sorted(of_it, key=lambda each: (each[0], each[1].digest))]


def read_judgements(workplace: Workplace, scrubbed: ArtifactRef) -> Iterator[JudgedRow]:
    """All rows that were judged of a scrubbed corpus, oldest first. Raises IntegrityError for a changed judgement."""
    for ref in judgements_of(workplace, scrubbed):
        content = workplace.store.open(ref).file(JUDGEMENT_FILE).read_bytes()
        yield from Judgement.model_validate_json(content).rows


def assert_shown_as_stored(workplace: Workplace, scrubbed: ArtifactRef, rows: Sequence[PreviewedRow]) -> None:
    """Raise InputError when rows are shown otherwise than the scrubbed corpus has them: it would be judged unseen."""
    shown = {row.id: {field.name: field.after for field in row.fields if field.name != AUTHOR} for row in rows}
    for document in read_documents(workplace.store.open(scrubbed).file(DOCUMENTS)):
        texts = {name: text for name, text in document.texts.items() if text}
        if shown.pop(document.id, texts) != texts:
            shown[document.id] = texts
            break
    if shown:
        raise InputError(
            f"Line {workplace.line.line}: row {next(iter(shown))} is scrubbed otherwise now than in the current "
            f"scrubbed corpus.",
            f"Run `sovereign run {workplace.line.line} --until scrubbed_corpus`, and judge that one.",
        )
