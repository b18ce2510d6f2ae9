"""What a person judged of a sample of scrubbed rows, and what it says about the whole corpus.

What belongs here: keeping judgements beside the scrubbed corpus that they are of, and the estimate. What does not:
showing rows and asking (`preview.py`, `commands/privacy.py`). A judgement holds counts by row id, never text.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sovereign_pipeline.artifacts.making import Identity, make_artifact
from sovereign_pipeline.artifacts.manifest import ArtifactRef
from sovereign_pipeline.artifacts.stage import Built, Workplace
from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.files import canonical_json, digest_of
from sovereign_pipeline.base.frozen import Frozen
from sovereign_pipeline.base.intervals import MeasuredShare, measured_share
from sovereign_pipeline.corpus.document import read_documents
from sovereign_pipeline.corpus.stages import DOCUMENTS
from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.privacy.placeholders import AUTHOR
from sovereign_pipeline.privacy.preview import PreviewedRow

JUDGEMENT = "privacy_judgement"
SCRUBBED = "scrubbed_corpus"
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

    def precision(self, kinds: Iterable[Kind] | None = None) -> MeasuredShare:
        """Of what was replaced, how much is personal data: of these kinds, or of all."""
        right, wrong = self._of(self.right, kinds), self._of(self.wrong, kinds)
        return measured_share(right, right + wrong)

    def recall(self, kinds: Iterable[Kind] | None = None) -> MeasuredShare:
        """Of the personal data, how much was replaced."""
        right, missed = self._of(self.right, kinds), self._of(self.missed, kinds)
        return measured_share(right, right + missed)

    @property
    def kinds(self) -> list[Kind]:
        """Those that were judged at all."""
        return sorted(self.right.keys() | self.wrong.keys() | self.missed.keys())

    def _of(self, counts: Mapping[Kind, int], kinds: Iterable[Kind] | None) -> int:
        return sum(counts.values()) if kinds is None else sum(counts.get(kind, 0) for kind in kinds)


def told(share: MeasuredShare) -> str:
    """A share in words and figures: of none there is no figure."""
    return str(share) if share.of else "none judged"


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
        wrong: placeholders that took the place of what is no personal data, wherever they stand in the row, or single
            places of one (`PreviewedRow.places`).
        missed: kinds of what is still there, one for each value.
    """
    named = set(wrong)
    judged = [(found.kind, bool(named & {place, found.placeholder})) for place, found in row.places]
    return JudgedRow(
        id=row.id,
        right=dict(Counter(kind for kind, is_wrong in judged if not is_wrong)),
        wrong=dict(Counter(kind for kind, is_wrong in judged if is_wrong)),
        missed=dict(Counter(missed)),
    )


def record_judgement(workplace: Workplace, scrubbed: ArtifactRef, judgement: Judgement) -> ArtifactRef:
    """Keep a judgement of a scrubbed corpus in the store."""
    content = judgement.model_dump(mode="json")
    number = len(judgements_of(workplace, scrubbed.digest)) + 1  # the same judgement once more is another one
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


def judgements_of(workplace: Workplace, scrubbed: str) -> list[ArtifactRef]:
    """The judgements of the scrubbed corpus with this digest, oldest first."""
    store = workplace.store
    made = [(store.read_manifest(ref), ref) for ref in store.indexed(JUDGEMENT)]
    of_it = [
        (manifest.producer.config["number"], manifest.circumstances.created_at, ref.digest, ref)
        for manifest, ref in made
        if store.input_ref(manifest, SCRUBBED).digest == scrubbed
    ]
    return [ref for *_, ref in sorted(of_it, key=lambda each: each[:3])]  # times are whole seconds, and may tie


def recorded_judgements(workplace: Workplace) -> dict[str, str]:
    """`judgements` -> digest of those of the line's current scrubbed corpus; empty where there are none."""
    current = workplace.store.current(workplace.line.line, SCRUBBED)
    judged = judgements_of(workplace, current.digest) if current is not None else []
    return {"judgements": digest_of([ref.digest for ref in judged])} if judged else {}


def read_judgements(workplace: Workplace, scrubbed: str) -> Iterator[JudgedRow]:
    """All rows that were judged of the scrubbed corpus with this digest, oldest first. Raises IntegrityError for a
    changed judgement."""
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
