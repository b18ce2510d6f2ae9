"""Read the reference numbers of a letter: its own ones, and the ones of its addressee that it cites.

A letter's own number stands in a line of its own, behind words such as `Our ref` or `رقم القيد`. A cited number follows
a word for a letter of the addressee, such as `your letter` or `خطابكم`, with nothing between but connecting words and
dates. Numbers of laws, permits, invoices or letters of others are therefore neither.

Example:
    >>> numbers_of("Our ref: HB/2024/9\\n\\nWe refer to your letter of 5 April 2024, No. ١٧ / 2024.").cited
    (('2024', '17'),)
"""

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import takewhile

from sovereign_pipeline.base.text import compared_as
from sovereign_pipeline.corpus.dates import days_in, is_hijri, is_iso

Number = tuple[str, ...]
"""Comparison form of a reference number: its parts without separators and leading zeros, with the year before the
serial number. `HB-0017/2024` and `hb/2024/17` are one."""


@dataclass(frozen=True)
class Numbers:
    """The reference numbers of a letter."""

    own: tuple[Number, ...] = ()
    """Its own numbers, such as the sender's and the one of the addressee's registry."""
    cited: tuple[Number, ...] = ()
    """Numbers of the letters of its addressee that it answers. Those in a line such as `Your ref: 17` outrank those in
    sentences."""


def _words(text: str) -> str:
    """Return an alternation of words, given in their comparison form."""
    return "|".join(sorted(map(re.escape, text.split()), key=len, reverse=True))


_OF_NUMBERS = _words(
    "ref reference no nr number numbered nos refs رقم الرقم ارقام المرجع مرجع المرجعي الاشاره قيد القيد"
)
_OF_OWN = _words(
    "our o in reply please quote letter file document reg registration registry serial outgoing incoming n "
    "الصادر الوارد صادر وارد الكتاب الخطاب كتاب خطاب الرساله مرجعنا اشارتنا رقمنا التسجيل المعامله"
)
_ONLY_OWN = _words("مرجعنا اشارتنا رقمنا")
_LETTERS = _words(
    "letter letters correspondence communication request application enquiry inquiry query email e-mail "
    "mail message fax memo memorandum note petition complaint submission"
)
_ARABIC_LETTERS = _words(
    "كتاب خطاب رساله رسائل رسالت كتب خطابات طلب مرجع اشارت اشاره رقم مراسله مراسلت معامله معاملت برقيه برقيت "
    "فاكس مذكره مذكرت استفسار شكوي شكوا التماس افادت افاده"
)
_CONNECTING = _words(
    "of dated date on from with the under as bearing and ref reference no nos nr number numbered registered above "
    "رقم الرقم المرقم المرقمه ذي ذو ذات ب بتاريخ وتاريخ تاريخ المورخ المورخه مورخ في من المرجع مرجع المشار اليه اعلاه "
    "الموقر الموقره الكريم الكريمه المسجل المسجله برقم تحت"
)
_EARLIER = _words("earlier previous prior former first another other")
_SEPARATORS = r"[/\\._()-]"
_NUMBER = rf"(?=(?:[^\W_]|{_SEPARATORS})*?\d)[^\W_]+(?:{_SEPARATORS}+[^\W_]+)*"
_GAP = r"[\s.:,;/#()\[\]\"'*|-]*"
"""Characters that may stand between a label and its number."""
_LABEL = rf"(?:{_OF_NUMBERS}|{_OF_OWN})"
_OWN = re.compile(
    rf"(?:^|\s\s|\||\bDAY\b)[\W_]{{0,40}}(?P<label>{_LABEL}(?:[\s./]+{_LABEL}){{0,9}})\b{_GAP}(?P<number>{_NUMBER})(?P<rest>.*)$"
)
_LABEL_ALONE = re.compile(rf"^[\W_]*{_LABEL}(?:[\s./]+{_LABEL})*[\s.:]*$")
_YOURS_ALONE = re.compile(
    rf"^[\W_]*(?:your?|yr|y)[\s./]+(?:{_LETTERS}|ref|reference|no|number)(?:[\s.]+(?:{_OF_NUMBERS}))?[\s.:]*$"
)
_IS_NUMBER_LABEL = re.compile(rf"\b(?:{_OF_NUMBERS}|{_ONLY_OWN}|quote)\b")
_ENDS_A_LABELLED_LINE = re.compile(
    r"[\W_]*(?:$|(?:dated?|of|on|from|بتاريخ|وتاريخ|التاريخ|تاريخ|المورخ|في|DAY|your?|yr|y/|our|مرجعكم|رقمكم|اشارتكم|كتابكم|خطابكم)\b)"
)
_ONE = rf"(?:{_CONNECTING}|DAY)"
_CITED = re.compile(
    rf"(?:\b(?:your|yr)\s+(?:(?P<between>(?:[^\W\d_]+\s+){{0,2}}?)(?:{_LETTERS})|ref|reference|no|number)|\by/ref"
    rf"|\b(?:reply|response|answer)\s+to\s+(?:the\s+)?(?:{_LETTERS})|\b(?:رد|ردا|جوابا)\s+علي\s+(?:ال)?(?:{_ARABIC_LETTERS})"
    rf"|\b(?:[وفبل]|لل|ال)*(?:{_ARABIC_LETTERS})(?:كم|يكم|تكم|\s+[^\W\d_]+كم))\b"
    rf"(?:{_GAP}\b{_ONE}\b)*{_GAP}(?P<number>{_NUMBER})(?P<more>(?:\s*(?:,|&|\band\b|\bو)\s*(?:no\.?\s*)?{_NUMBER})*)"
)
_WORD, _TH = r"[^\W\d_]{3,10}", "(?:st|nd|rd|th)?"
_DATE_LIKE = re.compile(
    rf"(?<![\w/.-])(?:\d{{1,4}}([./-])\d{{1,2}}\1\d{{1,4}}|\d{{1,2}}{_TH}\.? (?:of )?{_WORD}(?: {_WORD})?,? \d{{4}}"
    rf"|{_WORD}\.? \d{{1,2}}{_TH},? \d{{4}})(?: ?(?:م|ه|ad|ah))?(?![\w/-])"
)
_OF_YEAR = re.compile(r"\b(\d+) (?:of|لسنه|لعام|/ ?لسنه) ((?:19|20)\d\d)\b")


def numbers_of(text: str) -> Numbers:
    """Return the reference numbers of a letter's text."""
    lines = _joined([_plain(line) for line in text.splitlines()])
    own = dict.fromkeys(number for line in lines for number in _own_in(line))
    labelled, others = dict[Number, None](), dict[Number, None]()
    for line in lines:
        for number, is_label in _cited_in(line):
            (labelled if is_label else others).setdefault(number)
    cited = tuple(labelled or others)
    return Numbers(tuple(each for each in own if each not in cited), cited)


def number_of(written: str) -> Number:
    """Return the comparison form of a reference number."""
    parts = [each.lstrip("0") or "0" for each in re.findall(r"[^\W_]+", _plain(written))]
    if len(parts) > 1 and _is_year(parts[-1]) and parts[-2].isdigit() and not any(map(_is_year, parts[:-1])):
        parts[-2:] = [parts[-1], parts[-2]]
    return tuple(parts)


def _plain(line: str) -> str:
    """Return the comparison form of a line: without dates, and with the separators of numbers as `/` and `-`."""
    line = "".join(
        "-" if unicodedata.category(each) == "Pd" else compared_as(each) for each in unicodedata.normalize("NFKC", line)
    ).casefold()
    line = re.sub(r" ?/ ?", "/", re.sub(r"\s{3,}", "  ", line))
    line = _DATE_LIKE.sub(lambda found: " DAY " if _is_date(found[0]) else found[0], line)
    line = re.sub(r"(?<=\d) - (?=\d)", "-", line)
    return _OF_YEAR.sub(r"\2/\1", line)


def _is_date(text: str) -> bool:
    text = re.sub(r" ?(?:م|ه|ad|ah)$", "", text)
    return bool(days_in(text)) or is_iso(text) or is_hijri(text)


def _joined(lines: list[str]) -> list[str]:
    """Join a label with the number in the line below it, and the wrapped lines of a paragraph."""
    joined = list[str]()
    for line in lines:
        if joined and line.strip() and joined[-1].strip():
            before = joined[-1]
            is_label = _LABEL_ALONE.match(before) or _YOURS_ALONE.match(before)
            if (is_label and re.fullmatch(rf"\W*{_NUMBER}.*", line)) or len(before) > _LEAST_WRAPPED:
                joined[-1] = f"{before.rstrip()} {line.lstrip()}"
                continue
        joined.append(line)
    return joined


_LEAST_WRAPPED = 50
"""Minimum length of a line that goes on in the next one."""
_LONGEST_OF_LABELS = 2_000
"""Maximum length of a line of labels and numbers. The time to search one grows with the square of its length."""


def _own_in(line: str) -> Iterator[Number]:
    """Yield the numbers in a line that consists of labels, numbers and dates."""
    match = _OWN.search(line) if len(line) <= _LONGEST_OF_LABELS else None
    if match is not None and _IS_NUMBER_LABEL.search(match["label"]) and _ENDS_A_LABELLED_LINE.match(match["rest"]):
        number = number_of(match["number"])
        if not (len(number) == 1 and _is_year(number[0])):
            yield number


def _cited_in(line: str) -> Iterator[tuple[Number, bool]]:
    """Yield the numbers that follow a word for a letter of the addressee, and whether the line is only a label."""
    for match in _CITED.finditer(line):
        if re.search(rf"\b(?:{_EARLIER})\b", match["between"] or ""):
            continue
        is_label = _ENDS_A_LABELLED_LINE.match(line[match.end() :]) is not None and len(line) < _LEAST_WRAPPED * 2
        for written in re.findall(_NUMBER, f"{match['number']} {match['more']}"):
            number = number_of(written)
            if not (len(number) == 1 and _is_year(number[0])):
                yield number, is_label


def _is_year(part: str) -> bool:
    return len(part) == 4 and part[:2] in ("19", "20") and part.isdigit()


# --- the institution's own numbers ------------------------------------------------------------------------------------

LEAST_OF_OURS = 0.9
"""Minimum share of citations that the institution's series of numbers must explain."""
LEAST_IN_A_SERIES = 5
"""Minimum number of citations that connect a series of numbers with others."""


def likely_ours(letters: Iterable[Numbers]) -> list[str]:
    """Return the beginnings of the institution's own numbers, such as `hb/dg`, or nothing if they cannot be told.

    Each citation connects a letter of the institution with one of somebody else. Its series of numbers are therefore
    the ones that together are on exactly one side of nearly every citation.
    """
    letters = [*letters]
    owners = defaultdict[Number, list[Numbers]](list)
    for letter in letters:
        for number in letter.own:
            owners[number].append(letter)
    citations = [
        ({series_of(reply)}, {series_of(letter)})
        for reply in letters
        for number in reply.cited
        for letter in owners[number]
        if letter is not reply
    ]
    chosen, left = set[str](), citations
    while left:
        counts = Counter(series for sides in left for series in sides[0] | sides[1] if series)
        series, times = next(iter(counts.most_common(1)), ("", 0))
        if times < LEAST_IN_A_SERIES:
            break
        chosen.add(series)
        left = [sides for sides in left if not (sides[0] | sides[1]) & chosen]
        if any(sides[0] <= chosen and sides[1] <= chosen for sides in citations):
            return []
    return sorted(chosen) if citations and len(left) <= (1 - LEAST_OF_OURS) * len(citations) else []


def series_of(letter: Numbers) -> str:
    """Return the part of a letter's own number before the year and the serial number."""
    return "/".join(takewhile(lambda part: not part.isdigit(), letter.own[0])) if letter.own else ""
