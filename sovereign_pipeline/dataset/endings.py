"""Whether a reply ends in mid-sentence: by its last mark, its last word, or a note that it goes on.

What belongs here: what the end of one text shows, in Latin or Arabic script. What does not: counting (`quality.py`).
"""

import html
import re
import unicodedata

from sovereign_pipeline.split.similarity import normal_text

RUNNING_LINE_WORDS = 8
"""A last line of more words than this is a sentence, not a signature or an item of a list."""
LONGEST_ELLIPSIS = 12
"""Dots. A longer run is a line to fill in."""
_TAIL = 4_000
"""Characters that are looked at. What goes on for longer than that behind the last word is no end of a reply."""

_DOTS_OF = {**dict.fromkeys("…⋯︙⋮", 3), "‥": 2}
_DOTS = frozenset((*".．。۔․·", *_DOTS_OF))
_ARABIC = re.compile(r"[\u0600-\u06ff\u0750-\u077f\u08a0-\u08ff\ufb50-\ufdff\ufe70-\ufefc]")
_LINK = re.compile(r"(?:https?://|www\.)\S+\Z", re.IGNORECASE)

# What stands behind an end without being one: closing quotes and brackets, marks of Markdown, blanks, what is not seen.
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
"""Words that say that a text goes on elsewhere, as `normal_text` has them."""
_PLUS_SO_MANY = re.compile(rf"\+ ?\d[\d,. ]{{0,12}}{_UNITS}\Z")
_BEFORE_GOES_ON = re.compile(r"[^\w\s'’ـ]")


def is_clipped(text: str) -> bool:
    """Whether a reply ends in mid-sentence or mid-word, in Latin or Arabic script.

    Its last line decides, without what closes behind it (quotes, brackets, tags, blanks). It ends in an ellipsis, in
    whatever dots, or in a note that it goes on, such as `(continued)` or `يتبع`; in a hyphen, comma, tatweel or opening
    bracket, or in a word such as `the` or `في` that nothing ends with; or it is long enough to be a sentence and does
    not end one. Signatures are short lines, an address of the web ends no sentence, and a run of more than
    LONGEST_ELLIPSIS dots is to be filled in.
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
    """Three dots or more, also with blanks between them. Two are a slip in Latin script, and an ellipsis in Arabic."""
    run = line
    while run and (run[-1] in _DOTS or run[-1].isspace()):
        run = run[:-1]
    dots = sum(_DOTS_OF.get(each, 1) for each in line[len(run) :] if not each.isspace())
    return (2 if _ARABIC.match(run[-1:]) else 3) <= dots <= LONGEST_ELLIPSIS


def _goes_on(line: str) -> bool:
    """Whether the line, or what stands in it behind its last mark, says that the text goes on."""
    marks = [found.end() for found in _BEFORE_GOES_ON.finditer(line)]
    # The mark may stand behind the note too: `(continued...)`, `- more -`.
    starts = (0, *marks[-4:])
    return any(_says_that_it_goes_on(line[start:]) for start in starts) or bool(_PLUS_SO_MANY.search(line[-40:]))


def _says_that_it_goes_on(words: str) -> bool:
    return _GOES_ON.fullmatch(normal_text(words)) is not None
