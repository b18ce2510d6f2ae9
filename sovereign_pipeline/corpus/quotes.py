"""Find quotations in an English or Arabic message, and remove those of messages that are in the conversation."""

import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import Literal

from sovereign_pipeline.base.text import COMPARED

_WORD = re.compile(r"\w+")
_RUN = 5
"""Number of consecutive words by which a known text is recognised."""
_LEAST_UNMARKED = 12
"""Minimum number of words for treating a paragraph as a quotation without a mark."""
_MOSTLY = 0.8
"""Minimum share of a quotation's words that must come from known messages. The share is below 1, because a mail gateway
may have added banners and links."""
_SIGNATURE = re.compile(
    r"^[ \t]*(?:--[ \t]*|(?:sent from (?:my|outlook|yahoo|mail)|get outlook for|أُ?رسلت من|تم الإرسال من)[^\n]{0,60})$",
    re.IGNORECASE,
)
"""Pattern of the line that precedes a signature (RFC 3676, section 4.3), and of lines that phones add."""


class KnownMessages:
    """Remembers the words of a conversation's earlier messages."""

    def __init__(self) -> None:
        self._runs: dict[bool, set[int]] = {True: set(), False: set()}
        self._lines = set[str]()

    def add(self, text: str, *, is_ours: bool) -> None:
        words = _words(text)
        self._runs[is_ours].update(map(hash, _runs(words)))
        self._lines.update(" ".join(_words(line)) for line in text.split("\n"))

    def coverage(self, lines: list[str], sides: Iterable[bool] = (True, False)) -> list[tuple[int, int]]:
        """Return two numbers for each line: its known words, and all its words. A word is known if it is in a run of
        `_RUN` words that a known message contains; a run may span lines. If all lines together have fewer words, they
        are known if they equal a known line. `sides`: whose messages count (True: ours; False: the correspondent's)."""
        counts = [_words(line) for line in lines]
        words = [word for line in counts for word in line]
        known = [len(words) < _RUN and " ".join(words) in self._lines] * len(words)
        for start, run in enumerate(map(hash, _runs(words))):
            if any(run in self._runs[side] for side in sides):
                known[start : start + _RUN] = [True] * _RUN
        place, found = 0, list[tuple[int, int]]()
        for line in counts:
            found.append((sum(known[place : place + len(line)]), len(line)))
            place += len(line)
        return found


def own_text(text: str, known: KnownMessages, *, is_ours: bool) -> str:
    """Return a message's text without its signature and without quotations of known messages. Quotations of unknown
    messages stay in the text, with their heads.

    After a head such as `On 4 May 2024, A wrote:`, the quotation may be with or without `>` marks, and an answer may
    follow it. A paragraph that repeats the other side's words also counts as a quotation.
    """
    parts = [*_parts(text)]
    is_on_top = any(kind == "own" and any(line.strip() for line in lines) for kind, lines in parts)
    kept, is_removed = list[str](), True  # the last line first
    for kind, lines in reversed(parts):
        rest = lines
        if kind == "head":
            rest = ["\n"] if is_removed else lines
        elif any(line.strip() for line in lines):
            if kind == "own":
                rest = _without_unmarked(_without_signature(lines), known, is_ours)
            else:
                rest = _without_quotation(lines, known, is_whole=kind == "marked" or (kind == "behind" and is_on_top))
                rest = _without_signature(rest) if kind == "below" or rest != lines else rest
            is_removed = kind != "own" and rest != lines
        kept += reversed(rest)
    return re.sub(r"\n{3,}", "\n\n", "".join(reversed(kept))).strip()


_Kind = Literal["own", "marked", "behind", "below", "head"]


def _parts(text: str) -> Iterator[tuple[_Kind, list[str]]]:
    """Yield each part of a text with its kind: the `head` of a quotation; `marked` lines, which have a quote mark;
    unmarked lines directly `behind` a head; unmarked lines `below` marked lines after a head, which are an answer or
    the rest of a nested quotation; and `own` lines."""
    place = 0
    unmarked: _Kind = "own"
    for head in (*QUOTE_HEAD.finditer(text), None):
        piece = text[place : head.start() if head else len(text)]
        kinds = list[bool]()
        for line in (lines := piece.splitlines(keepends=True)):
            is_blank = not line.strip() and bool(kinds)
            kinds.append(kinds[-1] if is_blank else QUOTE_MARK.match(line) is not None)
        for is_marked, run in groupby(zip(kinds, lines, strict=True), lambda each: each[0]):
            yield "marked" if is_marked else unmarked, [line for _, line in run]
            if is_marked and unmarked == "behind":
                unmarked = "below"
        if head:
            yield "head", [head.group()]
            place, unmarked = head.end(), "behind"


def _without_quotation(lines: list[str], known: KnownMessages, *, is_whole: bool) -> list[str]:
    """Return the lines without quotations of known messages. If `is_whole` is true, the lines are one quotation: either
    all or none are removed. Otherwise known lines are removed up to the answer. Short known lines stay, because an
    answer may begin with a known greeting."""
    counts = known.coverage(lines)
    if is_whole:
        found, of = (sum(column) for column in zip(*counts, strict=True))
        return ["\n"] if found and found >= _MOSTLY * of else lines
    end = next((number for number, (found, of) in enumerate(counts) if found < of), len(lines))
    return ["\n", *lines[end:]] if sum(of for _, of in counts[:end]) >= _LEAST_UNMARKED else lines


def _without_unmarked(lines: list[str], known: KnownMessages, is_ours: bool) -> list[str]:
    kept = list[str]()
    for _, paragraph in groupby(lines, lambda line: bool(line.strip())):
        every = list(paragraph)
        counts = known.coverage(every, (not is_ours,))
        if not sum(of for _, of in counts) >= _LEAST_UNMARKED or any(found < of for found, of in counts):
            kept += every
    return kept


def _without_signature(lines: list[str]) -> list[str]:
    end = next((number for number, line in enumerate(lines) if _SIGNATURE.match(line.rstrip("\n"))), len(lines))
    return lines[:end]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.translate(COMPARED).casefold())


def _runs(words: list[str]) -> Iterator[tuple[str, ...]]:
    return zip(*(words[start:] for start in range(_RUN)), strict=False)


def _spaced(phrases: str) -> str:
    """Return the phrases with escaped spaces, because a verbose regular expression ignores plain spaces."""
    return phrases.replace(" ", r"[ ]")


QUOTE_MARK = re.compile(r"^[ \t]*((?:>[ \t]?)+)", re.MULTILINE)
_FORWARDED = _spaced(
    r"original message|forwarded message|begin forwarded message|forwarded by|"
    r"الرسالة الأصلية|رسالة أصلية|النص الأصلي|الرسالة المعاد توجيهها|رسالة معاد توجيهها|رسالة مُعاد توجيهها|"
    r"رسالة محولة|رسالة مُحوّلة|الرسالة المحولة|بدء الرسالة"
)
_LABEL = _spaced(
    r"(?:from|sent|date|to|cc|subject|"
    r"من|المرسل|أرسلت|أُرسلت|أرسل|تاريخ الإرسال|تم الإرسال|التاريخ|إلى|الى|المرسل إليه|نسخة|نسخة إلى|الموضوع)"
)
QUOTE_HEAD = re.compile(
    rf"""
      (?<![-_=*]) [-_=*]{{3,}} [ \t]* (?:{_FORWARDED}) [^\n]*        # -----Original Message-----
    | ^ [ \t]* (?:{_FORWARDED}) [^\n]{{0,80}} : [ \t]* $              # Begin forwarded message:
    | ^ [ \t]* [_-]{{10,}} [ \t]* $                                   # the line that Outlook draws
    | (?: ^ [ \t*>]* {_LABEL} [ \t*]* : [^\n]* \n? ){{2,}}             # From: … / Sent: … / Subject: …
    | \b (?:from|من|المرسل) [ \t]* : [^\n]{{1,120}}?
      \b (?:sent|date|to|أرسلت|أرسل|التاريخ|تاريخ[ ]الإرسال|إلى|الى) [ \t]* : [^\n]{{1,120}}?
      \b (?:subject|الموضوع) [ \t]* :                                 # the same in one line
    | ^ [ \t]* on \b [^\n]{{1,200}} (?: \n [^\n]{{0,200}} )?? \b wrote [ \t]* :   # On 4 May 2024, A wrote:
    | ^ [ \t]* (?:في|بتاريخ|يوم) \b [^\n]{{1,200}} (?: \n [^\n]{{0,200}} )??
      \b كتبت? \b [^\n]{{0,120}} (?: \n [^\n]{{0,80}} )?? :
    | ^ [ \t]* (?:و|وقد[ ]|وكان[ ]قد[ ])? كتبت? \b [^\n]{{1,160}} : [ \t]* $
    """,
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)
