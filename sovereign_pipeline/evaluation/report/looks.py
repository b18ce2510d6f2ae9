"""Log every evaluation on a line's held-out documents (a look), and derive the confidence of the gates' intervals from
the number of looks.

With enough attempts, any candidate passes a gate by chance. The gates' intervals therefore widen with each look: at
look k, a candidate that is exactly as good as its reference passes a test of superiority with a probability of 2.5 % /
k². Over any number of looks, the sum is at most 2.5 % · π²/6 = 4.1 %, regardless of how the looks depend on each other.
This is Bonferroni's method with unequal weights (Rosenthal and Rubin 1983, "Ensemble-adjusted p values", Psychological
Bulletin 94: 540-541; for a sequence of tests: Foster and Stine 2008, "Alpha-investing", Journal of the Royal
Statistical Society B 70: 429-444). The first look uses the usual 95 %.

A look is logged before the first score is computed. It therefore counts even if the evaluation is interrupted or its
artifacts are deleted. Evaluating the same weights again with the same settings is the same look, unless a score then
has different values.

A look of another line also counts if that line's corpus contained at least half of these documents: see `_counts`.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import Field
from sqlalchemy import select

from sovereign_pipeline.base.errors import GateRefused
from sovereign_pipeline.base.files import Frozen, digest_of
from sovereign_pipeline.base.intervals import CONFIDENCE
from sovereign_pipeline.base.text import folded
from sovereign_pipeline.corpus.document import Document, read_documents
from sovereign_pipeline.evaluation.report.gates import CRITERIA
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.record.audit_log import append
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.sealing import pipeline_actor
from sovereign_pipeline.record.stage import Outcome, Workplace
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline.record.tables import AuditEntry
from sovereign_pipeline.split import HELD_OUT, SELECTION, TRAIN
from sovereign_pipeline.split.shingles import is_mostly_in, least_digests, normal_form
from sovereign_pipeline.split.stages import SELECTION_DRAWN
from sovereign_pipeline.training.tuned_model import stated_weights

LOOKED, MEASURED, JUDGED = "held-out side evaluated", "held-out side measured", "evaluation judged"
BUDGET = 10
"""Number of looks after which a line needs new held-out documents. The interval at the tenth look is 1.8 times as wide
as at the first."""
Figures = dict[str, str]
"""Two digests that identify an evaluation's results. `incumbent`: the incumbent's digest, or empty without an
incumbent. `files`: the digest of the files of all scores."""
SKETCHES = ("rows", "texts", "corpus")
"""Keys of a log entry. Each contains a sketch of one part of the split; see `_sketches`."""


class Look(Frozen):
    """One evaluation of the weights of an adapter or a whole model on a line's held-out documents."""

    weights: str
    """SHA-256 of the evaluated weights. Several artifacts may contain the same weights."""
    held_out: str
    """SHA-256 of the held-out documents."""
    settings: str
    """Digest of the settings on which results and verdicts depend: seed, precision, rows, prompts and margins."""
    recipe: str
    """Digest of the whole recipe."""
    seed: int
    precision: str
    margins: dict[str, float]
    """Margin of each gate. The key is SECTION.KEY of the recipe's `gates`, or capability.SUITE."""
    outcomes: dict[str, Outcome] = {}
    """Gate -> outcome; empty if no report was built."""


class Looks(Frozen):
    """One look at a line's held-out documents, and the earlier looks that count."""

    number: int
    """Number of this look, from 1."""
    confidence: float
    """Confidence of the two-sided intervals that the gates use."""
    earlier: tuple[Look, ...]
    of_other_lines: int = Field(default=0, exclude_if=lambda number: not number)
    """Number of earlier looks of other lines that count for these held-out documents (see `_counts`)."""
    at_other_sides: int = Field(default=0, exclude_if=lambda number: not number)
    """Number of this line's looks at earlier held-out documents, which no longer count."""

    def loosened(self, margins: Mapping[str, float]) -> list[tuple[int, str, float, float]]:
        """Return each margin that is looser now than at an earlier look at which its gate did not pass. Each entry
        contains the number of the earlier look, the name of the margin, its value at that look, and its value now. If a
        look has no report, none of its gates count as passed."""
        return [
            (number, name, then, margins[name])
            for number, look in enumerate(self.earlier, 1)
            for name, then in look.margins.items()
            if name in margins
            and look.outcomes.get(GATE_OF[name.split(".")[0]], "pass" if look.outcomes else "") != "pass"
            and (margins[name] < then if name.endswith("minimum_cases") else margins[name] > then)
        ]


GATE_OF: Mapping[str, str] = {criterion.section: criterion.name for criterion in CRITERIA}
"""Section of the recipe's `gates` -> name of its gate."""


def confidence_at(look: int) -> float:
    """Return the confidence of the gates' intervals at the look with the number `look` (from 1)."""
    return 1 - (1 - CONFIDENCE) / look**2


def margins_of(line: Line) -> dict[str, float]:
    """Return the margins of a recipe's gates. The keys are SECTION.KEY, or capability.SUITE."""
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


def enter_look(workplace: Workplace, candidate: ArtifactRef, split: ArtifactRef, tests: str) -> None:
    """Log an evaluation that is about to begin, unless it is already logged.

    Args:
        tests: digest of what decides the verdicts besides candidate and split, such as the questions and prompts.

    Raises GateRefused if at least half of the held-out documents were on the selection side of a split of any line.
    """
    look, line = _look(workplace, candidate, split), workplace.line.line
    id, before = _id(look, tests), [each.subjects for each in _entries(workplace, LOOKED)]
    if (line, id) in {(subjects["line"], subjects["look"]) for subjects in before}:
        return
    same = next((subjects for subjects in before if subjects.get("split") == split.digest), None)
    sketches = {name: same[name] for name in SKETCHES} if same is not None else _sketches(workplace.store.open(split))
    selecting = [
        each.subjects["line"]
        for each in _entries(workplace, SELECTION_DRAWN)
        if is_mostly_in(sketches["texts"], each.subjects["texts"])
    ]
    if selecting:
        raise GateRefused(
            f"Line {line}: at least half of the held-out documents were on the selection side of line {selecting[-1]}. "
            f"That side is used to choose settings, so these documents must not be used to evaluate an adapter.",
            "Hold out other documents: add newer ones and set split.by_date, or restore the earlier split.",
        )
    stated = look.model_dump(mode="json", exclude={"outcomes"})
    _append(workplace, LOOKED, {"line": line, "look": id, **stated, "split": split.digest, **sketches})


def enter_measured(
    workplace: Workplace, candidate: ArtifactRef, split: ArtifactRef, tests: str, incumbent: str, kind: str, files: str
) -> None:
    """Log the digest of the files that one evaluation stage has written, before its artifact is committed.

    Results differ between machines and numbers of threads. If other files of this stage are already logged for the same
    look and incumbent, this evaluation counts as another look, which is logged too.

    Args:
        incumbent: digest of the incumbent, or empty.
        kind: the stage, such as `private_scores`.
        files: digest of the stage's files.
    """
    look = _id(_look(workplace, candidate, split), tests)
    key = {"line": workplace.line.line, "look": look, "incumbent": incumbent, "score": kind}
    known = [each.subjects["files"] for each in _entries(workplace, MEASURED) if key.items() <= each.subjects.items()]
    if files in known:
        return
    if known:
        tests = digest_of([tests, kind, files])
        enter_look(workplace, candidate, split, tests)
    _append(workplace, MEASURED, {**key, "files": files, "tests": tests})


def as_measured(
    workplace: Workplace,
    candidate: ArtifactRef,
    split: ArtifactRef,
    tests: str,
    figures: Figures,
    scores: Mapping[str, str],
) -> str:
    """Return the digest that identifies the tests of a look with these results.

    By default, `tests` is returned. If a stage was run again and wrote other files, the digest that was logged for
    these files is returned. If the outcomes of this look are already logged with other results against the same
    incumbent, a new digest is returned. With a digest other than `tests`, the evaluation counts as another look.

    Args:
        scores: evaluation stage -> digest of its files.
    """
    line, look = workplace.line.line, _look(workplace, candidate, split)
    key = {"line": line, "look": _id(look, tests), "incumbent": figures["incumbent"]}
    measured = [each.subjects for each in _entries(workplace, MEASURED) if key.items() <= each.subjects.items()]
    found = [each["tests"] for each in measured if scores.get(each["score"]) == each["files"]]
    tests = next((each for each in reversed(found) if each != tests), tests)  # the latest look of any score
    key = {"line": line, "look": _id(look, tests)}
    for known in (each.subjects for each in _entries(workplace, JUDGED)):
        if known.get("figures", {}).get("incumbent") == figures["incumbent"] and key.items() <= known.items():
            return tests if known["figures"] == figures else digest_of([tests, figures])
    return tests


def enter_outcomes(
    workplace: Workplace,
    candidate: ArtifactRef,
    split: ArtifactRef,
    tests: str,
    figures: Figures,
    outcomes: Mapping[str, Outcome],
) -> None:
    """Log the outcomes of an evaluation's gates, unless they are already logged."""
    id = _id(_look(workplace, candidate, split), tests)
    entered = {"line": workplace.line.line, "look": id, "figures": figures, "outcomes": dict(outcomes)}
    if entered not in [each.subjects for each in _entries(workplace, JUDGED)]:
        _append(workplace, JUDGED, entered)


def looks_at(workplace: Workplace, candidate: ArtifactRef, split: ArtifactRef, tests: str) -> Looks:
    """Count the looks up to and including a candidate's look. If this look is not logged yet, it counts as the next
    one. Later log entries do not change the result, so a rebuilt report is the same."""
    line, id = workplace.line.line, _id(_look(workplace, candidate, split), tests)
    before: dict[tuple[str, str], Mapping[str, Any]] = {}  # two stages that run at the same time may both log a look
    outcomes: dict[tuple[str, str], dict[str, Outcome]] = {}
    now: Mapping[str, Any] | None = None
    for subjects in (each.subjects for each in _entries(workplace, LOOKED, JUDGED)):
        key = subjects["line"], subjects["look"]
        if "outcomes" in subjects:
            known = outcomes.setdefault(key, {})
            known |= {gate: one for gate, one in subjects["outcomes"].items() if known.get(gate, "pass") == "pass"}
        elif key == (line, id):
            now = subjects
            break
        else:
            before.setdefault(key, subjects)
    if now is None:
        now = _sketches(workplace.store.open(split), with_corpus=False)
    counted = {key: subjects for key, subjects in before.items() if _counts(subjects, now, line)}
    number = len(counted) + 1
    return Looks(
        number=number,
        confidence=confidence_at(number),
        earlier=tuple(
            Look(
                **{name: subjects[name] for name in Look.model_fields if name != "outcomes"},
                outcomes=outcomes.get(key, {}),
            )
            for key, subjects in counted.items()
        ),
        of_other_lines=sum(of != line for of, _ in counted),
        at_other_sides=sum(of == line for of, _ in before.keys() - counted.keys()),
    )


def _counts(look: Mapping[str, Any], now: Mapping[str, Any], line: str) -> bool:
    """Return True if an earlier look counts for the present held-out documents.

    A look counts if the corpus of its line then contained at least half of the present held-out texts, on any side of
    the split. A different split seed or a copied recipe therefore does not give fresh documents.

    A look of the same line also counts if its held-out documents and the present ones share an id, a case file or a
    text. Ids of other lines are not compared, because lines may use the same ids for different documents.

    Args:
        look: log entry of the earlier look.
        now: log entry of the present look, or the sketches of its split.
    """
    of_line = look["line"] == line and not set(now["rows"]).isdisjoint(look["rows"])
    return of_line or is_mostly_in(now["texts"], look.get("corpus", ()))


def _id(look: Look, tests: str) -> str:
    return digest_of([look.weights, look.held_out, look.settings, tests])


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


def _sketches(split: Artifact, with_corpus: bool = True) -> dict[str, list[str]]:
    """Return sketches of three parts of a split. A sketch is a list of the smallest digests. `rows`: ids, case files
    and texts of the held-out documents. `texts`: texts of the held-out documents. `corpus`: texts of all sides; empty
    if `with_corpus` is False."""
    held_out = list(_documents(split, HELD_OUT))
    sides = (TRAIN, SELECTION, HELD_OUT) if with_corpus else ()
    whole = (normal_form(document) for side in sides for document in _documents(split, side))
    texts = least_digests(map(normal_form, held_out))
    return {"rows": least_digests(_names(held_out)), "texts": texts, "corpus": least_digests(whole)}


def _documents(split: Artifact, side: str) -> Iterator[Document]:
    if any(entry.path == side for entry in split.manifest.files):
        yield from read_documents(split.file(side))


def _names(documents: Iterable[Document]) -> Iterable[str]:
    """Yield the documents' ids, case files and texts. A text excludes the subject, which a recipe may leave out."""
    for document in documents:
        yield f"id {folded(document.id)}"
        if case := folded(document.case):
            yield f"case {case}"
        yield f"text {normal_form(document)}"


def _entries(workplace: Workplace, *actions: str) -> list[AuditEntry]:
    query = select(AuditEntry).where(AuditEntry.action.in_(actions)).order_by(AuditEntry.sequence)
    with open_registry(workplace.settings).reading() as session:
        return list(session.scalars(query))


def _append(workplace: Workplace, action: str, subjects: Mapping[str, object]) -> None:
    with open_registry(workplace.settings).writing() as session:
        append(session, pipeline_actor(workplace.settings), action, subjects)
