"""Find identifiers in table columns by the column heads, and identifiers that precede their label."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.privacy.identifiers.labels import CR_VALUE, MONTH_OR_YEAR, PLATE_VALUE, QUANTITY
from sovereign_pipeline.privacy.identifiers.patterns import DATE, HIJRI_DATE, MONTH, UNIT
from sovereign_pipeline.privacy.normalisation import rows_of_tables
from sovereign_pipeline.privacy.spans import Span, value_key

# --- labels behind their value ----------------------------------------------------------------------------------------

_NO_EN = r"(?:['’]s)?(?: ?(?:no|nr|num|number|id|#)\b\.?)?"
NAMES: tuple[tuple[Kind, str], ...] = (
    ("RESIDENT_CARD", rf"resident(?:'s|ce|cy)? (?:card|permit|id){_NO_EN}|iqama{_NO_EN}|"
    rf"(?:رقم )?(?:بطاقة )?(?:ال)?(?:إقامة|مقيم)"),
    (
        "NID",
        rf"(?:civil|national|personal) (?:id|no|number|card|identity){_NO_EN}\.?|id(?: card)?(?: (?:no|"
        rf"number))?\.?|identity card{_NO_EN}"
        rf"|emirates id{_NO_EN}|eid|qid|cpr{_NO_EN}|(?:ال)?رقم(?:ه|ها|ي)? (?:ال)?(?:مدني|شخصي|هوية|سكاني)|"
        rf"(?:ال)?بطاقة (?:ال)?(?:مدنية|شخصية)"
        r"|(?:ال)?هوية",
    ),
    ("PASSPORT", rf"passport{_NO_EN}|(?:رقم )?(?:ال)?جواز(?:ه|ها|ي)?(?: (?:ال)?سفر)?"),
    ("CR", rf"c\.?r\.?{_NO_EN}|commercial reg(?:istration|ister|\.){_NO_EN}|(?:رقم )?(?:ال)?سجل(?:ه|ها|"
    rf"نا)? (?:ال)?تجاري|س\.? ?ت"),
    ("CARD", rf"(?:credit|debit|bank|visa) card{_NO_EN}|بطاقة (?:ال)?(?:ائتمان|بنكية)"),
    ("ACCOUNT", rf"(?:bank )?(?:account|acct|a/c){_NO_EN}|(?:رقم )?(?:ال)?حساب(?:ه|ها|ي)?(?: (?:ال)?بنكي)?"),
    ("DRIVING_LICENCE", rf"driv(?:er'?s?'?|ing) licen[cs]e{_NO_EN}|(?:رقم )?رخصة (?:ال)?(?:قيادة|سياقة)"),
    ("PHONE", rf"(?:tele)?phone{_NO_EN}|tel\.?{_NO_EN}|mobile{_NO_EN}|gsm{_NO_EN}|whats ?app|fax{_NO_EN}|"
    rf"(?:رقم )?(?:ال)?(?:هاتف|جوال|نقال|فاكس)(?:ه|ها|ي)?"),
    ("PLATE", rf"(?:vehicle |car )?(?:number )?plate{_NO_EN}|vehicle no\.?|imo{_NO_EN}|mmsi|"
    rf"(?:رقم )?(?:ال)?(?:لوحة|مركبة)"),
    ("DATE_OF_BIRTH", r"(?:date|year) of birth|birth ?(?:da(?:te|y)|year)|d\.?o\.?b\.?|born|"
    r"(?:(?:تاريخ|سنة) )?(?:ال)?ميلاد(?:ه|ها)?"),
)  # fmt: skip
VALUES: dict[Kind, re.Pattern[str]] = {
    "NID": re.compile(r"\d(?:[ ./-]{0,2}\d){6,14}"),
    "RESIDENT_CARD": re.compile(r"\d(?:[ ./-]{0,2}\d){6,14}"),
    "PASSPORT": re.compile(r"[A-Z]{0,3} ?\d{5,9}"),
    "CR": re.compile(CR_VALUE),
    "CARD": re.compile(r"[\d*xX•](?:[ .-]{0,2}[\d*xX•]){11,18}"),
    "ACCOUNT": re.compile(r"\d(?:[ -]?\d){6,19}"),
    "DRIVING_LICENCE": re.compile(r"[A-Z]{0,3}\d{5,14}"),
    "PHONE": re.compile(r"[+(]{0,2}\d(?:[ ()./-]{0,3}\d){5,14}"),
    "PLATE": re.compile(rf"(?!{QUANTITY}){PLATE_VALUE}|\d{{7}}|\d{{9}}"),
    "DATE_OF_BIRTH": re.compile(rf"(?:{HIJRI_DATE}|{DATE})(?: ?(?:AH|H|ه|م))?", re.IGNORECASE),
}
_SIGNS = (
    "civil", "national", "personal", "id", "iqama", "cpr", "resident", "passport", "c.r", "cr", "commercial", "card",
    "account", "acct", "a/c", "licen", "phone", "tel", "mobile", "gsm", "whats", "fax", "plate", "vehicle", "imo",
    "mmsi", "birth", "dob", "d.o.b", "born", "مدني", "شخصي", "هوية", "سكاني", "جواز", "سجل", "حساب", "رخصة", "هاتف",
    "جوال", "نقال", "فاكس", "لوحة", "مركبة", "ميلاد", "قامة", "مقيم", "بطاقة",
)  # fmt: skip

_VALUE_BEFORE = re.compile(
    r"(?<![\w.,/:+-])(?P<value>(?:[A-Z]{1,3} ?)?\d(?:[ ./-]?\d){4,15}|\d{2,5} ?(?:[A-Z]{1,2}|[ء-ي](?: ?[ء-ي])?)(?!\w))"
    r"(?: ?\((?P<bracket>)|(?: ?, ?| - | ?= ?| (?:is|was|being|as) )(?:(?:my|his|her|our|their|the|a|its) )?"
    r"|،? (?:هو|هي|وهو|وهي) )(?=[^\W\d_])"
)
_NAMED_BEHIND = tuple(
    (kind, re.compile(rf"(?i:(?:my|his|her|our|their|the) )?(?i:{names})(?!\w)")) for kind, names in NAMES
)
_IS_ITS_OWN_LABEL = re.compile(r"[.:#=\s]{0,3}(?:(?i:no|nr|number|is|was|of|رقم|هو)\b\.?[\s:#]{0,2})*[+(A-Z]{0,3} ?\d")
"""Pattern of a value after a label, which shows that the label does not belong to the value before it."""
_LABEL_BEFORE = re.compile(
    r"(?i)(?:no\b\.?|number|phone|tel\.?|mobile|passport|card|account|رقم|هاتف)(?: is)?[ :#]{0,3}\Z"
)


def identifiers_before_their_label(text: str) -> Iterator[Span]:
    """Yield values that precede their label, such as "1045 7832 (civil number)"."""
    for match in _VALUE_BEFORE.finditer(text):
        if match["bracket"] is None and _LABEL_BEFORE.search(text, max(0, match.start() - 20), match.start()):
            continue
        for kind, name in _NAMED_BEHIND:
            named = name.match(text, match.end())
            if named is None:
                continue
            if VALUES[kind].fullmatch(match["value"]) and _IS_ITS_OWN_LABEL.match(text, named.end()) is None:
                yield _span(text, *match.span("value"), kind)
            break


def may_hold_placed(small: str) -> bool:
    """Return whether a lower-case text contains any label of an identifier."""
    return any(sign in small for sign in _SIGNS)


# --- columns of tables ------------------------------------------------------------------------------------------------

CELL_END = "\t"
"""Character that ends a cell in `with_cells_apart`. A number never continues across it."""

_VALUES: dict[Kind, re.Pattern[str]] = {
    **VALUES,
    "PASSPORT": re.compile(r"[A-Z]{0,3} ?\d{6,9}|[A-Z]{1,3} ?\d{5}"),
    "DATE_OF_BIRTH": re.compile(rf"{VALUES['DATE_OF_BIRTH'].pattern}|{MONTH_OR_YEAR}", re.IGNORECASE),
}
_HEADS = tuple((kind, re.compile(rf"[*_#\s]*(?i:{names})[*_:.\s]*")) for kind, names in NAMES)
_SAYS_NUMBER = re.compile(r"(?i)(?<!\w)(?:no|nr|num|number|imo|mmsi)(?!\w)|#|رقم")
_BIRTH = re.compile(r"(?i)birth|b\.?\W*$|ميلاد")
_NUMBER_OF_A_VESSEL = re.compile(r"(?i)\s*(?:imo|mmsi)")
# Heads of columns that name the person or firm of a row.
_OF_ONE = re.compile(
    r"(?i)[*_\s]*(?:(?:full |first |last |family |given )?names?|surname|"
    r"holder|owner|applicant|passenger|guest|visitor|"
    r"employee|staff|crew|seafarer|master|tenant|driver|student|patient|client|customer|person|firm|company|trader|"
    r"supplier|contractor|licensee|establishment|الاسم|اسم .{2,20}|المالك|صاحب .{2,20}|"
    r"مقدم الطلب|الموظف|المؤسسة|الشركة|"
    r"المسافر|السائق)(?:['’]s)?(?: name)?[*_:.\s]*"
)
# Heads of columns that name the subject of a row's figures.
_OF_FIGURES = re.compile(
    r"(?i)[*_\s]*(?:(?:fiscal |financial )?years?|months?|quarters?|periods?|dates?|days?|weeks?|"
    r"governorates?|regions?|"
    r"wilayats?|departments?|directorates?|sections?|ministr(?:y|ies)|branches?|services?|items?|categor(?:y|ies)|types?|"
    r"sectors?|nationalit(?:y|ies)|countr(?:y|ies)|age(?: groups?)?|gender|sex|"
    r"indicators?|descriptions?|particulars|total|"
    r"السنة|العام|الشهر|الربع|الفترة|التاريخ|المحافظة|الولاية|المنطقة|الإدارة|المديرية|الخدمة|البند|النوع|القطاع|"
    r"الجنسية|الدولة|البيان|المؤشر)[*_:.\s]*"
)
_OF_A_COUNT = re.compile(
    rf"(?i)[*_\s]*(?:(?:19|20)\d\d(?:[/-]\d{{2,4}})?|(?:total |number of |count of )?(?:\w+ )?\(?(?:{UNIT}|amounts?|"
    r"values?|totals?|counts?|quantit(?:y|ies)|qty|births|population|volumes?|turnover|revenues?|costs?|prices?|budgets?)"
    r"\)?(?: \([^()]{1,20}\))?|(?:total )?number of [\w ]+|"
    r"العدد|عدد [\w ]+|الكمية|المبلغ|القيمة|الإجمالي|المجموع)[*_:.\s]*"
)
_OF_ACCOUNTS = re.compile(r"(?i)[*_\s]*(?:DR|debits?|credits?|balance|amount|value|مدين|دائن|الرصيد|المبلغ)\b.*")
_SUM = re.compile(
    r"(?i)[*_\s]*(?:(?:grand |sub-?)?totals?|sum|average|mean|share|المجموع|الإجمالي|الاجمالي|المتوسط)\b.*"
)
_TIME = re.compile(rf"(?i)[*_\s]*(?:(?:19|20)\d\d(?:[/-]\d{{2,4}})?|Q[1-4](?: ?\d{{4}})?|{MONTH}(?: \d{{4}})?)[*_\s]*")
_FIGURE = re.compile(r"\d+")
_AMOUNT = re.compile(r"(?i)(?:OMR|RO|R\.O\.|USD|AED|[$€£])? ?\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+\.\d+|\d+ ?%|0|\d{1,4}")
_DIGIT = re.compile(r"\d")
_RULE = re.compile(r"[-=|:+\t ]*")
_WIDE_GAP = re.compile(r" {2,}")
_LONGEST_HEAD = 300

# In rows with cells separated by one space: only values that are hardly anything else.
_ALONE: dict[Kind, re.Pattern[str]] = {
    "CR": re.compile(r"(?<![\w./,-])\d{7}(?![\w/,-]|\.\d)"),
    "PASSPORT": re.compile(r"(?<![\w./,-])(?:[A-Z]{1,2}\d{6,8}|\d{7,8})(?![\w/,-]|\.\d)"),
    "PLATE": re.compile(r"(?<![\w./,-])\d{1,5} [A-Z]{1,2}(?![\w/,-])"),
    "NID": re.compile(r"(?<![\w./,-])\d{8,12}(?![\w/,-]|\.\d)"),
}
_NAMED = tuple((kind, re.compile(rf"(?i:{names})(?!\w)")) for kind, names in NAMES if kind in _ALONE)
_COUNTING = re.compile(
    r"(?i)(?<!\w)(?:issued|renewed|applications?|fees?|costs?|total|count|counts|statistics|office|department|authority|"
    r"section|policy|law|regulations?|services?|by|per|year|month|governorate|رسوم|عدد|إحصاء\w*|دائرة|إدارة|قانون)(?!\w)"
)
_SENTENCE = re.compile(r"(?:^| )(?!(?:bin|bint|al|el|ben|ibn|abu|of|and|de|van|von) )[a-z]{2,}|[.:;!?]$")


def with_cells_apart(text: str) -> str:
    """Replace each bar between table cells by `CELL_END`. The length stays the same."""
    if "|" not in text or "\n" not in text:
        return text
    lines = text.split("\n")
    return "\n".join(
        line.replace("|", CELL_END) if is_row else line
        for line, is_row in zip(lines, rows_of_tables(lines, "|"), strict=True)
    )


def identifiers_in_columns(text: str) -> Iterator[Span]:
    """Yield the values in table columns whose head names an identifier."""
    lines = text.split("\n")
    start = 0
    number = 0
    while number < len(lines):
        head = _head(lines[number])
        start += len(lines[number]) + 1
        number += 1
        if head is None:
            continue
        rows: list[tuple[int, str]] = []
        while number < len(lines) and (_RULE.fullmatch(lines[number]) or head.has_row(lines[number])):
            if not lines[number].strip():
                break
            if _head(lines[number]) is not None:
                break
            rows.append((start, lines[number]))
            start += len(lines[number]) + 1
            number += 1
        yield from _in_rows(text, head, [row for row in rows if not _RULE.fullmatch(row[1])])


def counts_in_columns(text: str) -> list[tuple[int, int]]:
    """Return the spans of cells in columns whose head names a count, a measurement or a year."""
    found: list[tuple[int, int]] = []
    places: list[int] = []
    delimiter, width, start = "", 0, 0
    for line in text.split("\n"):
        if not places or not (_RULE.fullmatch(line) or len(_cells(line, delimiter)) == width):
            delimiter = next((each for each in ("\t", "|", ";", "  ") if each in line.strip(" ")), "")
            cells = _cells(line, delimiter) if delimiter and len(line) <= _LONGEST_HEAD else []
            places = [place for place, (_, cell) in enumerate(cells) if _OF_A_COUNT.fullmatch(cell.strip())]
            width = len(cells)
        elif not _RULE.fullmatch(line):
            cells = _cells(line, delimiter)
            found += [(start + cells[place][0], start + cells[place][0] + len(cells[place][1])) for place in places]
        start += len(line) + 1
    return found


@dataclass(frozen=True)
class _Head:
    delimiter: str
    """Delimiter of the cells; empty for a single space."""
    cells: tuple[str, ...]
    kinds: tuple[tuple[Kind, int], ...]
    """Kinds in the columns, each with the column's index."""

    def has_row(self, line: str) -> bool:
        if not self.delimiter:
            return bool(line.strip()) and _SENTENCE.search(line.strip()) is None
        return len(_cells(line, self.delimiter)) == len(self.cells)


def _head(line: str) -> _Head | None:
    if not 4 <= len(line) <= _LONGEST_HEAD or _DIGIT.search(line):
        return None
    delimiter = next((each for each in ("\t", "|", ";", ",", "  ") if each in line.strip(" ")), "")
    if not delimiter:
        return _head_of_words(line)
    cells = tuple(cell for _, cell in _cells(line, delimiter))
    kinds = tuple((kind, place) for place, cell in enumerate(cells) for kind, head in _HEADS if head.fullmatch(cell))
    return _Head(delimiter, cells, kinds) if kinds and len(cells) > 1 else None


def _head_of_words(line: str) -> _Head | None:
    words = line.split()
    if not 2 <= len(words) <= 12 or line.rstrip()[-1] in ".:;,!?" or _COUNTING.search(line):
        return None
    if sum(word[0].islower() for word in words) > len(words) // 2:
        return None
    begins = [word.start() for word in re.finditer(r"\S+", line)]
    kinds = [(kind, -1) for kind, name in _NAMED if any(name.match(line, begin) for begin in begins)]
    return _Head("", (line,), tuple(kinds)) if kinds else None


def _cells(line: str, delimiter: str) -> list[tuple[int, str]]:
    """Return the cells of a line, each with its offset."""
    if delimiter != "  ":
        places = [0]
        for cell in line.split(delimiter):
            places.append(places[-1] + len(cell) + 1)
        return [(begin, line[begin : end - 1]) for begin, end in pairwise(places)]
    begin = len(line) - len(line.lstrip(" "))
    cells: list[tuple[int, str]] = []
    for gap in _WIDE_GAP.finditer(line.rstrip(" "), begin):
        cells.append((begin, line[begin : gap.start()]))
        begin = gap.end()
    return [*cells, (begin, line[begin:].rstrip(" "))]


def _in_rows(text: str, head: _Head, rows: Sequence[tuple[int, str]]) -> Iterator[Span]:
    if not head.delimiter:
        for start, line in rows:
            for kind, _ in head.kinds:
                for match in _ALONE[kind].finditer(line):
                    if not match.group().endswith("00"):
                        yield _span(text, start + match.start(), start + match.end(), kind)
        return
    cells = [[(start + begin, cell) for begin, cell in _cells(line, head.delimiter)] for start, line in rows]
    for place, of_place in groupby(head.kinds, key=lambda each: each[1]):
        column = [row[place] for row in cells]
        values = [cell.strip(" *_'\"") for _, cell in column]
        for kind, _ in of_place:
            if _are_figures(head, place, kind, values, [_first(row) for row in cells]):
                continue
            for (start, cell), value in zip(column, values, strict=True):
                if value and _VALUES[kind].fullmatch(value):
                    first = start + cell.index(value)
                    yield _span(text, first, first + len(value), kind)


def _first(row: Sequence[tuple[int, str]]) -> str:
    """Return the first cell that is not empty."""
    return next((cell.strip() for _, cell in row if cell.strip()), "")


def _are_figures(head: _Head, place: int, kind: Kind, values: Sequence[str], firsts: Sequence[str]) -> bool:
    """Return whether a column contains counts or amounts, although its head could name identifiers."""
    figures = [value for value in values if _FIGURE.fullmatch(value)]
    if kind == "DATE_OF_BIRTH":
        is_of_years = not _BIRTH.search(head.cells[place]) or any(map(_OF_A_COUNT.fullmatch, head.cells))
        is_of_years &= not any(map(_OF_ONE.fullmatch, head.cells))
        return any(is_of_years or not _VALUES[kind].fullmatch(value) for value in figures)
    if not figures:
        return False
    if kind == "PLATE":
        return _NUMBER_OF_A_VESSEL.match(head.cells[place]) is None
    others = [cell for number, cell in enumerate(head.cells) if number != place and cell.strip()]
    if any(_AMOUNT.fullmatch(value) for value in values):
        return True
    if kind == "CR" and any(_OF_ACCOUNTS.fullmatch(cell) for cell in others):
        return True
    if _SAYS_NUMBER.search(head.cells[place]):
        return False
    if kind == "ACCOUNT" and max(map(len, figures)) < 8:
        return True  # account codes of a chart of accounts
    lengths = set(map(len, figures))
    round_ones = sum(value.endswith("00") for value in figures)
    if max(lengths) - min(lengths) > 1 or min(lengths) < 6 or 2 * round_ones > len(figures):
        return True
    if any(_SUM.fullmatch(first) for first in firsts):
        return True
    if any(_OF_ONE.fullmatch(cell) for cell in others):
        return False
    return all(_TIME.fullmatch(first) for first in firsts) or any(_OF_FIGURES.fullmatch(cell) for cell in others[:1])


def _span(text: str, start: int, end: int, kind: Kind) -> Span:
    return Span(start, end, kind, value_key(kind, text[start:end]))
