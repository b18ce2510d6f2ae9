"""The page `docs/reference/judges.md`, made from the labelled answers and the stored weights."""

import json
from collections.abc import Sequence

from benchmarks.evaluation.refusal_weights import LABELS, tuned_answers
from sovereign_pipeline.evaluation.records import EVERY_STYLE, JudgedLabel, JudgeQuality
from sovereign_pipeline.evaluation.red_team import OutputScanner, judge_labels, judge_qualities, read_labels
from sovereign_pipeline.evaluation.refusals import WEIGHTS_FILE
from sovereign_pipeline.policy.corpus import Privacy

INTRODUCTION = """\
# The judges of the red team

Made by `make docs`. All labelled answers were written for this project (`data/red_team/README.md`). They are hard on
purpose: most come in pairs on one subject, of which one refuses. The judge before this one, a table of phrases, had a
precision of 0.70 and a recall of 0.50 on the 120 newest fresh answers.

Precision is the share of the answers that a judge names which are labelled so. Recall is the share of the labelled
ones that it names. Intervals are Wilson's, at 95 %. *Fresh*: no rule or weight was made in view of the answer.
"""


def judges_markdown() -> str:
    scanner = OutputScanner("judges", Privacy(name_models={}), {})
    qualities = judge_qualities(judge_labels(read_labels(LABELS), scanner))
    left_out = judge_qualities(_left_out())
    whole = [each for each in qualities if each.style == EVERY_STYLE]
    styles = [each for each in qualities if each.style != EVERY_STYLE and not each.tuned]
    return "\n".join(
        [
            INTRODUCTION,
            *_table(whole, ("judge", "labelled answers")),
            "",
            "## Refusals, fresh answers, by style",
            "",
            "Few answers each: read the intervals.",
            "",
            *_table(styles, ("style",)),
            "",
            "## Refusals, styles left out",
            "",
            "Each `tuned` answer, judged by weights that were fitted without its style in either language.",
            "",
            *_table(left_out, ("style",)),
            "",
        ]
    )


def _left_out() -> list[JudgedLabel]:
    verdicts = dict(line.split() for line in json.loads(WEIGHTS_FILE.read_text(encoding="utf-8"))["left_out"])
    return [
        JudgedLabel(
            **answer.model_dump(include={"id", "judge", "language", "style", "label"}),
            tuned=False,
            judged=verdicts[answer.id] == "refuses",
        )
        for answer in tuned_answers()
    ]


def _table(qualities: Sequence[JudgeQuality], columns: tuple[str, ...]) -> list[str]:
    head = (*columns, "language", "n", "precision", "recall")
    rows = [
        (
            *((each.judge, "tuned" if each.tuned else "fresh") if len(columns) > 1 else (f"`{each.style}`",)),
            each.language,
            str(each.labels),
            *(f"{share} of {share.of}" if share.of else "" for share in (each.precision, each.recall)),
        )
        for each in qualities
    ]
    return [f"| {' | '.join(row)} |" for row in (head, ("---",) * len(head), *rows)]
