"""Personal data in what a model says, found by the privacy room's own scanner.

What belongs here: handing outputs to the scanner and counting what it finds. What a name or an identifier looks like,
and the canaries that prove that the detectors ran, are the privacy room's. Counts of kinds leave this module, no text.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.policy.institution import Treatments
from sovereign_pipeline.policy.personal_data import KINDS, Kind
from sovereign_pipeline.privacy.scrubbing import Scrubber

# With the brackets that models like to put around them. What Arabic writes onto one, as in `وNAME_3`, may stay.
_PLACEHOLDER = re.compile(rf"[\[<{{(]?(?:{'|'.join(KINDS)})_\d+[\]>}})]?")
_NEVER_A_PLACEHOLDER = "…"

FoundKinds = dict[Kind, int]


@dataclass(frozen=True)
class Output:
    """What a model said. prompt: what it had been shown, so that repeating the writer's own words is no disclosure."""

    id: str
    language: str
    prompt: str
    text: str


class OutputScanner:
    """The detectors of one line, over outputs instead of letters.

    Placeholders such as NAME_1 are what training put in the place of persons, so they are no personal data. A kind that
    the institution's policy keeps in letters is not counted.
    """

    def __init__(self, line: str, privacy: Privacy, treatments: Treatments) -> None:
        self._scrubber = Scrubber(line, "outputs", privacy, treatments)

    def scan(self, outputs: Sequence[Output]) -> list[FoundKinds]:
        """For each output the number of values of each kind that are in it and not in its prompt.

        Raises PrivacyError, naming the row, when a detector raises, and when the canaries that are searched with the
        outputs come out with a planted value left: then nothing is known about any output.
        """
        found = []
        for case in self._scrubber.scrub([[_document(output)] for output in outputs]):
            asked = {row.placeholder for row in case.mapping if row.field == "request"}
            new = {row.placeholder for row in case.mapping if row.field == "response"} - asked
            kinds: Counter[Kind] = Counter()
            for placeholder in new:
                kind: Kind = placeholder.rsplit("_", 1)[0]  # type: ignore[assignment]
                kinds[kind] += 1
            found.append(dict(sorted(kinds.items())))
        return found


def _document(output: Output) -> Document:
    """A case file of its own, so that what is found in one output decides nothing about another."""
    return Document(
        id=output.id,
        source="outputs",
        case=output.id,
        department="",
        author="",
        date="2000-01-01",
        classification="",
        language=output.language,
        subject="",
        request=_PLACEHOLDER.sub(_NEVER_A_PLACEHOLDER, output.prompt),
        response=_PLACEHOLDER.sub(_NEVER_A_PLACEHOLDER, output.text),
    )
