"""Count quality findings in a dataset's rows. A finding names the first rows and a remedy, and fails no gate. The card
stores the wording of findings, so a change of wording needs a new `code_version`."""

import hashlib
import html
import re
import statistics
import unicodedata
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from itertools import islice
from pathlib import Path

import yaml

from sovereign_pipeline.base.files import Frozen
from sovereign_pipeline.base.text import folded
from sovereign_pipeline.corpus.document import Document, Role
from sovereign_pipeline.corpus.languages import LEAST_LETTERS, is_in_other_script
from sovereign_pipeline.split.shingles import normal_text

RUNNING_LINE_WORDS = 8
"""Maximum number of words of a last line that may be a signature or a list item. A longer line counts as a sentence."""
NEAR_EMPTY_WORDS = 3
NEAR_LIMIT = 0.9
ONE_SIDED = 0.8
"""If the chosen reply is longer in at least this share of pairs, or in at most one minus this share, the card warns
that length predicts the choice. Rewards for length are a known problem of preference data (Singhal et al. 2023, "A Long
Way to Go")."""
UNEVEN_LABELS = 0.9
_IDS_SHOWN = 10
_HAN = r"\u3040-\u30ff\u3400-\u9fff"
_PART = re.compile(rf"[{_HAN}]|[^\s{_HAN}]+")
"""Pattern of a word: a single Chinese or Japanese character, or other text without blanks."""
_LETTER_OR_DIGIT = re.compile(r"\w")
_TAGS = "a|b|blockquote|body|br|code|div|em|font|form|h[1-6]|head|hr|html|i|img|li|ol|p|pre|script|span|strong|style"
_MARKUP = re.compile(
    rf"</?(?:{_TAGS}|sub|sup|table|tbody|td|th|thead|title|tr|u|ul)(?:\s[^<>]*)?/?>"
    r"|&(?:[a-z]{2,8}|#\d{2,6}|#x[0-9a-f]{2,5});",
    re.IGNORECASE,
)
_CONTRADICTING, _NEAR_EMPTY_REJECTED = "contradicting preferences", "near-empty rejected replies"


class QualityFinding(Frozen):
    """One kind of questionable rows, such as rows with an empty reply, and the number of these rows."""

    name: str
    what: str
    """Description of the counted rows."""
    count: int
    share: float
    """Share of the dataset's rows that are counted."""
    rows: tuple[str, ...]
    """Ids of the first counted rows."""
    warns: bool
    """True if a person should look at the finding."""
    todo: str
    numbers: dict[str, float] = {}
    """Additional numbers, such as the median ratio of lengths."""


@dataclass
class _Tally:
    count: int = 0
    rows: list[str] = field(default_factory=list)


class Quality:
    """Counts quality findings over a dataset's documents."""

    def __init__(self, role: Role, limit: int) -> None:
        """`role`: role of the sources of the rows; each role has its own findings. `limit`: maximum length of a row in
        tokens."""
        self._kinds = _kinds(role)
        self._limit = limit
        self._tallies = {name: _Tally() for name in self._kinds}
        self._ratios = array("d")
        self._contradictions = Contradictions()
        self.rows = 0

    def add(self, document: Document, tokens: int, *, is_copy: bool) -> None:
        self.rows += 1
        if is_copy:
            self._count("exact duplicates", document)
        for name in self._found(document, tokens):
            self._count(name, document)
        self._contradictions.add(document)

    def findings(self) -> tuple[QualityFinding, ...]:
        if _CONTRADICTING in self._tallies:
            rows = self._contradictions.rows()
            self._tallies[_CONTRADICTING] = _Tally(len(rows), rows[:_IDS_SHOWN])
        return tuple(self._finding(name) for name in self._kinds)

    def _found(self, document: Document, tokens: int) -> Iterator[str]:
        # A rejected reply may be clipped or short; a reply to learn must not be.
        replies = [each for each in document.messages if each.role == "assistant" and each.weight]
        learnt = [] if document.label is False else [each.content for each in replies]
        answers = [document.response, *([] if document.rejected is None else [document.rejected])]
        if not all(text.strip() for text in (*(each.as_text for each in replies), *answers)):
            yield "empty answers"
        if any(map(_is_near_empty, learnt)):
            yield "near-empty answers"
        if _is_near_empty(document.response if document.label is False else document.rejected or ""):
            yield _NEAR_EMPTY_REJECTED
        if any(map(is_clipped, learnt)):
            yield "clipped answers"
        if any(map(_MARKUP.search, document.texts.values())):
            yield "HTML left in"
        if any(is_in_other_script(text, document.language) for text in document.texts_in_language):
            yield "other script than the language's"
        if tokens > self._limit:
            yield "over the length limit"
        elif tokens > NEAR_LIMIT * self._limit:
            yield "near the length limit"
        if document.rejected is not None:
            yield from self._found_in_pair(document.response.strip(), document.rejected.strip())
        if document.label:
            yield "labelled good"

    def _found_in_pair(self, chosen: str, rejected: str) -> Iterator[str]:
        if chosen == rejected:
            yield "chosen equals rejected"
        if rejected:
            self._ratios.append(len(chosen) / len(rejected))
        if len(chosen) > len(rejected):
            yield "chosen is the longer one"

    def _count(self, name: str, document: Document) -> None:
        tally = self._tallies[name]
        tally.count += 1
        if len(tally.rows) < _IDS_SHOWN:
            tally.rows.append(document.id)

    def _finding(self, name: str) -> QualityFinding:
        tally = self._tallies[name]
        share = tally.count / self.rows if self.rows else 0.0
        uneven = {"chosen is the longer one": ONE_SIDED, "labelled good": UNEVEN_LABELS}.get(name)
        what, todo = self._kinds[name]
        of_pairs = name == "chosen is the longer one" and len(self._ratios) > 0
        return QualityFinding(
            name=name,
            what=what,
            count=tally.count,
            share=round(share, 6),
            rows=tuple(tally.rows),
            warns=tally.count > 0 if uneven is None else self.rows > 0 and max(share, 1 - share) >= uneven,
            todo=todo,
            numbers={"median_length_ratio": round(statistics.median(self._ratios), 4)} if of_pairs else {},
        )


@cache
def _kinds(role: Role) -> Mapping[str, tuple[str, str]]:
    """Return a dict that maps the name of each finding to a description of the counted rows and to the remedy."""
    written = Path(__file__).with_name("findings.yaml").read_text(encoding="utf-8")
    sections = ("all",) if role == "letters" else ("all", "not letters", role)
    limits = {
        "running_line_words": RUNNING_LINE_WORDS,
        "near_empty_words": NEAR_EMPTY_WORDS,
        "least_letters": LEAST_LETTERS,
        "near_limit": NEAR_LIMIT,
        "one_sided": ONE_SIDED,
        "uneven_labels": UNEVEN_LABELS,
    }
    findings = {name: each for section in sections for name, each in yaml.safe_load(written)[section].items()}
    return {name: (each["what"].format(**limits), each["todo"]) for name, each in findings.items()}


def _is_near_empty(reply: str) -> bool:
    """Return True if a reply has fewer than NEAR_EMPTY_WORDS words. Return False for an empty reply, because empty
    replies are a separate finding."""
    words = (each for each in _PART.finditer(reply) if _LETTER_OR_DIGIT.search(each[0]))
    return bool(reply.strip()) and len(list(islice(words, NEAR_EMPTY_WORDS))) < NEAR_EMPTY_WORDS


class Contradictions:
    """Finds documents of a dataset with contradicting feedback. Keeps ids in memory, and a digest of each reply with
    its request.

    Texts are equal if their words are equal (`normal_text`). If the two replies of a pair differ only in punctuation,
    their `folded` forms are compared instead.
    """

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._ids: list[str] = []
        self._better, self._worse = array("q"), array("q")
        self._labelled: dict[int, tuple[set[bool], list[str]]] = {}

    def add(self, document: Document) -> None:
        request = normal_text(f"{document.subject}\n\n{document.request}")
        if document.label is not None:
            labels, ids = self._labelled.setdefault(self._number(request, normal_text(document.response)), (set(), []))
            labels.add(document.label)
            ids.append(document.id)
        if document.rejected is None:
            return
        chosen, rejected = normal_text(document.response), normal_text(document.rejected)
        if chosen == rejected:
            chosen, rejected = folded(document.response), folded(document.rejected)
        if chosen == rejected:
            return
        self._ids.append(document.id)
        self._better.append(self._number(request, chosen))
        self._worse.append(self._number(request, rejected))

    def rows(self) -> list[str]:
        """Return the ids of the rows that contradict other rows. The ids of rows that contradict each other are
        adjacent.

        Pairs contradict each other if they form a cycle for one request: A is preferred to B, B to C, and C to A.
        Labels contradict each other if the same reply to one request is both good and bad.
        """
        labelled = [row for labels, ids in self._labelled.values() if len(labels) > 1 for row in ids]
        return self._in_circles() + labelled

    def _number(self, request: str, reply: str) -> int:
        key = hashlib.blake2b(f"{len(request)} {request} {reply}".encode(errors="surrogatepass"), digest_size=16)
        return self._numbers.setdefault(key.digest(), len(self._numbers))

    def _in_circles(self) -> list[str]:
        """Return the ids of all pairs that are in a cycle. Both replies of such a pair are in the same strongly
        connected component."""
        if not self._ids:
            return []
        circle = _strongly_connected(self._better, self._worse, len(self._numbers))
        rows: dict[int, list[str]] = {}
        for row, better, worse in zip(self._ids, self._better, self._worse, strict=True):
            if circle[better] == circle[worse]:
                rows.setdefault(circle[better], []).append(row)
        return [row for ids in rows.values() for row in ids]


def _strongly_connected(better: Sequence[int], worse: Sequence[int], count: int) -> list[int]:
    """Return the number of each reply's strongly connected component, in the graph with an edge from `better[i]` to
    `worse[i]` for each pair i. `count`: number of replies."""
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = coo_array((np.ones(len(better), dtype=np.int8), (np.array(better), np.array(worse))), shape=(count, count))
    _, circles = connected_components(edges.tocsr(), directed=True, connection="strong")
    found: list[int] = circles.tolist()
    return found


LONGEST_ELLIPSIS = 12
"""Maximum number of dots in an ellipsis. More dots are a blank to fill in."""
_TAIL = 4_000
"""Number of examined characters at the end of a reply."""
_DOTS_OF = {**dict.fromkeys("…⋯︙⋮", 3), "‥": 2}
_DOTS = frozenset((*".．。۔․·", *_DOTS_OF))
_ARABIC = re.compile(r"[\u0600-\u06ff\u0750-\u077f\u08a0-\u08ff\ufb50-\ufdff\ufe70-\ufefc]")
_LINK = re.compile(r"(?:https?://|www\.)\S+\Z", re.IGNORECASE)
# Characters ignored after the end: closing quotes and brackets, Markdown marks, blanks, invisible characters.
_CLOSING = "\"'’‘*_`>|~→←↓\ufe0f"
_CLOSING_CATEGORIES = frozenset(("Pe", "Pf", "Zs", "Zl", "Zp", "Cc", "Cf", "So", "Sk"))  # So, Sk: emoji, arrows
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
_LONGEST_TAG = 300
_SENTENCE_ENDS = ".!?…:;؟۔。！？"
_UNFINISHED_ENDS = "-–—ـ,،([{«“/&"
_UNFINISHED_WORDS = frozenset("the an and or of و في من إلى على أن أو التي الذي".split())  # noqa: SIM905
_UNITS = r"(?:char|chars|characters|words|lines)"
_GOES_ON = re.compile(
    r"(?:to be )?cont(?:d|inued|inues| d)?(?: (?:overleaf|below|(?:on|in) (?:the )?(?:next )?"
    r"(?:page|part|cell|row|sheet|letter|e ?mail|message|attachment|annex)(?: \d+)?|next page))?"
    r"|p ?t ?o|(?:(?:read|see|show|view|click for) )?more"
    r"|(?:(?:text|message|reply|answer|output) )?(?:truncated|cut(?: off| short)?|clipped|snip(?:ped)?|abridged)"
    rf"(?: \d+ (?:more )?{_UNITS})?|\d+ (?:more {_UNITS}|{_UNITS} more)"
    r"|(?:انظر |و ?ل?)?(?:ل ?لحديث )?(?:ال)?بقيه(?: تاتي)?|(?:ال)?تتمه|(?:و ?)?يتبع(?: (?:في|علي) [\w ]{1,40})?|تابع"
    r"|(?:(?:اقرا|عرض|قراءه|شاهد) )?(?:ال|لل)?مزيد|اقرا اكثر|مقتطع|مقطوع|مختصر"
)
"""Notes, in the form of `normal_text`, which say that a text continues elsewhere."""
_PLUS_SO_MANY = re.compile(rf"\+ ?\d[\d,. ]{{0,12}}{_UNITS}\Z")
_BEFORE_GOES_ON = re.compile(r"[^\w\s'’ـ]")


def is_clipped(text: str) -> bool:
    """Return True if a reply ends in mid-sentence or mid-word, in Latin or Arabic script.

    Only the last line is examined, without closing characters (quotes, brackets, tags, blanks). The line is clipped if
    it ends in an ellipsis, or in a note that the text continues, such as `(continued)` or `يتبع`. A line of several
    words is also clipped if it ends in a hyphen, comma, tatweel or opening bracket, or in a word that ends no sentence,
    such as `the` or `في`. A line that is long enough for a sentence is also clipped if it does not end like a sentence.
    A short line may be a signature and is not clipped. Nor is a line that ends in a web address, or in more than
    LONGEST_ELLIPSIS dots (a blank to fill in).
    """
    tail = text[-_TAIL:]
    lines = _without_closing(html.unescape(tail) if "&" in tail else tail).splitlines()
    line = lines[-1] if lines else ""
    if not line:
        return False
    if _ends_in_ellipsis(line) or _goes_on(line):
        return True
    words = line.split()
    if line[-1] in _UNFINISHED_ENDS or words[-1].casefold() in _UNFINISHED_WORDS:
        return len(words) > 1
    return len(words) > RUNNING_LINE_WORDS and line[-1] not in _SENTENCE_ENDS and not _LINK.match(words[-1])


def _without_closing(text: str) -> str:
    end = len(text)
    while end:
        start = text.rfind("<", max(0, end - _LONGEST_TAG), end) if text[end - 1] == ">" else -1
        if start >= 0 and _TAG.fullmatch(text, start, end) and not _says_that_it_goes_on(text[start + 1 : end - 1]):
            end = start
        elif text[end - 1] in _CLOSING or unicodedata.category(text[end - 1]) in _CLOSING_CATEGORIES:
            end -= 1
        else:
            break
    return text[:end]


def _ends_in_ellipsis(line: str) -> bool:
    """Return True if a line ends in an ellipsis: at least three dots, or at least two after Arabic script. Blanks may
    be between the dots. In Latin script, two dots are a typo."""
    run = line
    while run and (run[-1] in _DOTS or run[-1].isspace()):
        run = run[:-1]
    dots = sum(_DOTS_OF.get(each, 1) for each in line[len(run) :] if not each.isspace())
    return (2 if _ARABIC.match(run[-1:]) else 3) <= dots <= LONGEST_ELLIPSIS


def _goes_on(line: str) -> bool:
    """Return True if a line, or the part of the line after one of its last four punctuation marks, is a note that the
    text continues."""
    marks = [found.end() for found in _BEFORE_GOES_ON.finditer(line)]
    # Punctuation may also follow the note: `(continued...)`, `- more -`.
    starts = (0, *marks[-4:])
    return any(_says_that_it_goes_on(line[start:]) for start in starts) or bool(_PLUS_SO_MANY.search(line[-40:]))


def _says_that_it_goes_on(words: str) -> bool:
    return _GOES_ON.fullmatch(normal_text(words)) is not None
