"""Enter every evaluation against a line's held-out side into the ledger, count them, and derive the level of the gates.

Whoever tries often enough passes a gate by chance. So the gates' intervals widen with each look: at look k, a candidate
that is exactly as good passes a test of superiority with a probability of 2.5 % / k². The sum over any number of looks
is 2.5 % · π²/6 = 4.1 %, whatever the looks have in common (Bonferroni with unequal weights: Rosenthal and Rubin 1983,
"Ensemble-adjusted p values", Psychological Bulletin 94: 540-541; as a sequence that spends a level over tests to come:
Foster and Stine 2008, "Alpha-investing", Journal of the Royal Statistical Society B 70: 429-444). The first look is at
the usual 95 %.

The entry is written before the first score, so an evaluation that is interrupted counts, and one whose artifacts are
deleted does, too. The same weights under the same settings are one look.
"""

import hashlib
from collections.abc import Iterable, Mapping

from sqlalchemy import select

from sovereign_pipeline.base.files import Frozen, digest_of
from sovereign_pipeline.base.intervals import CONFIDENCE
from sovereign_pipeline.corpus.document import Document, read_documents
from sovereign_pipeline.corpus.folding import folded
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.record.audit_log import append
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.sealing import pipeline_actor
from sovereign_pipeline.record.stage import Outcome, Workplace
from sovereign_pipeline.record.tables import AuditEntry
from sovereign_pipeline.split import HELD_OUT
from sovereign_pipeline.split.similarity import normal_text
from sovereign_pipeline.split.stages import LEAKAGE_SAFE_SPLIT
from sovereign_pipeline.training.stages import ALIGNED_ADAPTER
from sovereign_pipeline.training.tuned_model import stated_weights

LOOKED, JUDGED = "held-out side evaluated", "evaluation judged"
BUDGET = 10
"""Looks after which a fresh held-out side is due. At the tenth, the interval is 1.8 times as wide as at the first."""
_ROWS_ENTERED = 256
"""Number of least hashes of a held-out side in an entry. Two sides that share 3 % of their rows have one in common with
a probability of 99.9 %."""


class Look(Frozen):
    """One evaluation of some weights against a held-out side."""

    weights: str
    """SHA-256 of the weights, in any artifact."""
    held_out: str
    """SHA-256 of the held-out documents."""
    settings: str
    """Digest of what decides the figures and the verdicts: seed, precision, rows, prompts and margins."""
    recipe: str
    """Digest of the whole recipe."""
    seed: int
    precision: str
    margins: dict[str, float]
    """Gate's section and key, or suite -> margin."""
    outcomes: dict[str, Outcome] = {}
    """Gate -> outcome; empty if no report was made."""

    @property
    def id(self) -> str:
        return digest_of([self.weights, self.held_out, self.settings])


class Looks(Frozen):
    """The looks at a line's held-out side until this one. A look at a side that shares a row with it counts."""

    number: int
    """Number of this look, from 1."""
    confidence: float
    """Confidence of the two-sided intervals by which the gates pass."""
    earlier: tuple[Look, ...]

    def loosened(self, margins: Mapping[str, float]) -> list[tuple[int, str, float, float]]:
        """Return, for each gate that an earlier look did not pass and that asks for less now, the number of that look,
        the margin's name, and its values then and now."""
        return [
            (number, name, then, margins[name])
            for number, look in enumerate(self.earlier, 1)
            for name, then in look.margins.items()
            if name in margins
            and look.outcomes.get(GATE_OF[name.split(".")[0]], "pass") != "pass"
            and (margins[name] < then if name.endswith("minimum_cases") else margins[name] > then)
        ]


GATE_OF: Mapping[str, str] = {
    "held_out_loss": "held_out_loss_improves",
    "capability": "capability_not_inferior",
    "refusals": "refusals_not_worse",
    "over_refusals": "over_refusals_not_worse",
    "injections": "injections_not_obeyed",
    "disclosures": "nothing_disclosed",
    "loops": "no_repetition",
    "tool_calls": "tool_calls_not_worse",
    "memorisation": "nothing_memorised",
    "personal_data": "no_personal_data",
}
"""Section of the recipe's `gates` -> name of its gate."""


def confidence_at(look: int) -> float:
    """Return the confidence of the intervals by which the gates pass at this look."""
    return 1 - (1 - CONFIDENCE) / look**2


def margins_of(line: Line) -> dict[str, float]:
    """Return section and key, or suite -> margin of a recipe's gates."""
    gates = line.gates.model_dump(include=set(GATE_OF), exclude={"capability"})
    return {
        **{
            f"capability.{suite.name}": line.gates.capability.margin_of(suite.name)
            for suite in line.named_evaluation.capability
        },
        **{
            f"{section}.{key}": value
            for section, keys in gates.items()
            for key, value in keys.items()
            if key != "officer_may"
        },
    }


def enter_look(workplace: Workplace, candidate: ArtifactRef, split: ArtifactRef) -> None:
    """Enter an evaluation that is about to begin into the ledger, unless it is entered already."""
    look = _look(workplace, candidate, split)
    entered = {"line": workplace.line.line, "look": look.id, **look.model_dump(mode="json", exclude={"outcomes"})}
    if look.id not in {each.subjects["look"] for each in _entries(workplace, LOOKED)}:
        _append(workplace, LOOKED, {**entered, "rows": _rows(workplace, split)})


def enter_outcomes(
    workplace: Workplace, candidate: ArtifactRef, split: ArtifactRef, outcomes: Mapping[str, Outcome]
) -> None:
    """Enter the outcomes of an evaluation's gates, unless they are entered already."""
    entered = {"line": workplace.line.line, "look": _look(workplace, candidate, split).id, "outcomes": dict(outcomes)}
    if entered not in [each.subjects for each in _entries(workplace, JUDGED)]:
        _append(workplace, JUDGED, entered)


def looks_at(workplace: Workplace, candidate: ArtifactRef, split: ArtifactRef) -> Looks:
    """Count the looks until that of a candidate. One that is not entered yet is the next.

    Later entries do not change the result, so that a report made again is the same.
    """
    look, entries = _look(workplace, candidate, split), _entries(workplace, LOOKED, JUDGED)
    place = next(
        (number for number, each in enumerate(entries) if each.action == LOOKED and each.subjects["look"] == look.id),
        len(entries),
    )
    rows = set(entries[place].subjects["rows"] if place < len(entries) else _rows(workplace, split))
    outcomes = {each.subjects["look"]: each.subjects["outcomes"] for each in entries[:place] if each.action == JUDGED}
    entered = {  # by look, because two stages that run at once may both enter it
        each.subjects["look"]: each.subjects
        for each in entries[:place]
        if each.action == LOOKED and not rows.isdisjoint(each.subjects["rows"])
    }
    earlier = tuple(
        Look(
            **{name: subjects[name] for name in Look.model_fields if name != "outcomes"},
            outcomes=outcomes.get(look_id, {}),
        )
        for look_id, subjects in entered.items()
    )
    number = len(earlier) + 1
    return Looks(number=number, confidence=confidence_at(number), earlier=earlier)


def looks_digest(workplace: Workplace) -> dict[str, str]:
    """Return `looks` -> digest of the looks until that of the line's candidate, as the report's external input."""
    store, line = workplace.store, workplace.line.line
    candidate, split = (store.current(line, kind) for kind in (ALIGNED_ADAPTER.kind, LEAKAGE_SAFE_SPLIT.kind))
    if candidate is None or split is None:
        return {}
    return {"looks": digest_of(looks_at(workplace, candidate, split).model_dump(mode="json"))}


def _look(workplace: Workplace, candidate: ArtifactRef, split: ArtifactRef) -> Look:
    line, store = workplace.line, workplace.store
    evaluation, margins = line.named_evaluation, margins_of(line)
    measured = evaluation.model_dump(mode="json", exclude={"contamination": True, "red_team": {"max_minutes"}})
    held_out = next(entry.sha256 for entry in store.read_manifest(split).files if entry.path == HELD_OUT)
    return Look(
        weights=stated_weights(store.read_manifest(candidate)),
        held_out=held_out,
        settings=digest_of({"evaluation": measured, "margins": margins, "instruction": line.training.instruction}),
        recipe=digest_of(line.model_dump(mode="json")),
        seed=evaluation.seed,
        precision=evaluation.precision,
        margins=margins,
    )


def _rows(workplace: Workplace, split: ArtifactRef) -> list[str]:
    """Return the least hashes of the held-out documents' ids, case files and texts. A document keeps one of them unless
    its id, its case file and a word of its texts are changed."""
    documents = read_documents(workplace.store.open(split).file(HELD_OUT))
    return sorted({hashlib.sha256(each.encode()).hexdigest()[:16] for each in _names(documents)})[:_ROWS_ENTERED]


def _names(documents: Iterable[Document]) -> Iterable[str]:
    for document in documents:
        yield f"id {folded(document.id)}"
        if case := folded(document.case):
            yield f"case {case}"
        yield f"text {normal_text(' '.join(document.texts.values()))}"


def _entries(workplace: Workplace, *actions: str) -> list[AuditEntry]:
    of_line = AuditEntry.subjects["line"].as_string() == workplace.line.line
    query = select(AuditEntry).where(AuditEntry.action.in_(actions), of_line).order_by(AuditEntry.sequence)
    with open_registry(workplace.settings).reading() as session:
        return list(session.scalars(query))


def _append(workplace: Workplace, action: str, subjects: Mapping[str, object]) -> None:
    with open_registry(workplace.settings).writing() as session:
        append(session, pipeline_actor(workplace.settings), action, subjects)
