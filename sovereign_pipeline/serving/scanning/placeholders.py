"""Placeholders of one request and its answer: put in, and taken out again for the same caller.

They are numbered beyond those that the texts hold already. What a placeholder of the request stands for is known until
the answer ends, and nowhere else. What belongs here: numbers, replacing and putting back. What does not: what is found.
"""

import re
from collections.abc import Iterable, Sequence

from sovereign_pipeline.policy.personal_data import KINDS, Kind
from sovereign_pipeline.serving.scanning.findings import Finding

_WRITTEN = re.compile(rf"(?<![A-Z_])({'|'.join(KINDS)})_(\d{{1,3}})(?!\d)")
_MAY_GO_ON = re.compile(r"(?<![A-Z_])[A-Z][A-Z_]*\d*\Z")
_LONGEST = max(map(len, KINDS)) + 10


class Placeholders:
    """The placeholders of one request and its answer."""

    def __init__(self, texts: Iterable[str] = ()) -> None:
        """texts: of the request; the placeholders in them stay as they are."""
        self._last: dict[str, int] = {}
        self._given: dict[tuple[Kind, str], str] = {}
        self.originals: dict[str, str] = {}
        """Placeholder -> what the caller wrote there first."""
        for text in texts:
            for kind, number in _WRITTEN.findall(text) if "_" in text else ():
                self._last[kind] = max(self._last.get(kind, 0), int(number))

    def of(self, kind: Kind, value: str) -> str:
        """The placeholder of a value; the same one each time."""
        if (kind, value) not in self._given:
            self._last[kind] = self._last.get(kind, 0) + 1
            self._given[kind, value] = f"{kind}_{self._last[kind]}"
        return self._given[kind, value]

    def in_place(self, text: str, found: Sequence[Finding], *, may_be_put_back: bool) -> str:
        """The text with placeholders. may_be_put_back: it is the caller's own."""
        pieces, position = [], 0
        for each in found:
            placeholder = self.of(each.kind, each.value)
            if may_be_put_back:
                self.originals.setdefault(placeholder, text[each.start : each.end])
            pieces += [text[position : each.start], placeholder]
            position = each.end
        return "".join([*pieces, text[position:]])


class PuttingBack:
    """Puts a caller's own text where a placeholder of their request stands in the answer, as the answer comes."""

    def __init__(self, originals: dict[str, str]) -> None:
        self._originals = originals
        self._held = ""

    def feed(self, text: str) -> str:
        """What can be sent: all but the end of the text that may be the beginning of a placeholder."""
        if not self._originals:
            return text
        text = self._held + text
        found = _MAY_GO_ON.search(text, max(0, len(text) - _LONGEST))
        end = found.start() if found is not None else len(text)
        self._held = text[end:]
        return self._put_back(text[:end])

    def end(self) -> str:
        """The rest."""
        rest, self._held = self._held, ""
        return self._put_back(rest)

    def _put_back(self, text: str) -> str:
        return _WRITTEN.sub(lambda found: self._originals.get(found.group(), found.group()), text)
