"""Find labels of values in English and Arabic: one table (`labels.json`), and one mechanism for all of them."""

import importlib
import json
import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import ClassVar, Literal, NamedTuple

from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.privacy.identifiers.patterns import (
    DATE,
    DATE_OF_A_PERSON,
    END,
    HIJRI_DATE,
    LINK,
    MONTH,
    NOT_A_QUANTITY,
    PHONE_VALUE,
)

# --- the table --------------------------------------------------------------------------------------------------------

CR_VALUE = r"(?:\d{1,2}/\d{5,7}(?:/\d{1,2})?|\d{1,2}/\d{2,5}/\d{2,7}|\d{5,10}(?:[/-]\d{1,3})?)"
"""Pattern of a firm's number with a branch behind it, or of branch, office and number between slashes."""
_PASSPORT = (
    r"(?:(?:(?:(?-i:[A-Z]{1,3})|[ء-ي])[ -]?|[a-z]{1,3})?\d{5,9}"
    r"|(?=(?:[A-Z]{0,5}\d){4})(?=\d{0,8}[A-Z])[A-Z\d]{6,10})(?!\w)"
)
_CODE = (
    r"(?!(?:19|20)\d\d(?![\w/-]))(?=(?:[^\s\d]{0,8}[ ]?\d){4}|[a-z#]{1,6}[/-]?\d{3}|(?-i:[A-Z]{1,4}) ?\d{3})"
    r"(?:(?-i:[A-Z]{1,4}) ?|[a-z]{1,6}[/-]?(?:[a-z]{1,3}[/-])?|#)?\d[a-z\d]*(?:[/.-][a-z\d]+){0,4}"
    r"(?: \d{3,}){0,3}(?![\w/])(?![.,]\d)"
)
_LATIN = r"[A-Z] ?[A-Z]?"
_ARABIC = r"[ء-ي](?: ?[ء-ي])?"
# Three letters are an emirate: "DXB-K-48211".
_LETTERS_FIRST = rf"(?:[A-Z]{{3}}[ /-]?)?{_LATIN}[ /-]{{0,2}}\d{{2,5}}|{_ARABIC}[ /-]{{0,2}}\d{{3,5}}"
# Capitals that are not letters of a plate, such as "4500 KG", unless the text names a number.
QUANTITY = r"\d{1,5}[ /-]{0,3}(?:KG|CC|MM|CM|KM|HP|KW|KV|DB|MB|GB|TV|AM|PM)(?!\w)|\d{1,3} ?[ALMTVW](?!\w)(?! ?\d)"
# Of an emirate or of Saudi Arabia, whose plates have three letters.
_EMIRATE = (
    r"(?:abu[ -]?dhabi|dubai|sharjah|ajman|umm al[ -]quwain|ras al[ -]khaimah|fujairah|AUH|DXB|SHJ|AJM|UAQ|RAK|FUJ|"
    r"[أا]بو ?ظبي|دبي|الشارقة|عجمان|[أا]م القيوين|ر[أا]س الخيمة|الفجيرة)"
)
_OF_THE_GULF = (
    rf"(?i:{_EMIRATE})[ ,/-]{{1,3}}(?:(?i:plate|code|كود|رمز|فئة|category)[ :]{{0,2}})*(?:[A-Z]{{1,2}}"
    rf"|[ء-ي]|\d{{1,2}})[ ,/-]{{1,3}}(?!(?:19|20)\d\d(?!\d))"
    r"\d{4,5}(?!\w)(?![.,]\d)"
)
_THREE_LETTERS = r"(?:[A-Z] [A-Z] [A-Z]|[ء-ي] [ء-ي] [ء-ي])"
PLATE_BY_FORM = re.compile(
    rf"(?<![\w.-]){_OF_THE_GULF}|(?<![\w.-])(?<!\b[^\W\d_] ){_THREE_LETTERS} ?\d{{3,4}}(?![\w/-]|[.,]\d)"
    rf"|(?<![\w.,/-])\d{{3,4}} ?{_THREE_LETTERS}(?![\w-])(?! [^\W\d_](?!\w))"
)
PLATE_VALUE = (
    rf"(?:{_OF_THE_GULF}|(?:[A-Z] ?){{3}}[ -]?\d{{1,4}}|\d{{1,4}}[ -]?(?:[A-Z] ?){{3}}(?!\w)"
    rf"|[ء-ي] [ء-ي] [ء-ي][ -]?\d{{1,4}}|\d{{1,4}} ?[ء-ي] [ء-ي] [ء-ي](?!\w)"
    rf"|\d{{1,5}}[ /-]{{0,3}}(?:{_LATIN}|{_ARABIC})(?!\w)|{_LETTERS_FIRST})"
)
DATE_OF_BIRTH_VALUE = rf"(?:{HIJRI_DATE}|{DATE}|{DATE_OF_A_PERSON})(?: ?(?:AH|H|ه|م)(?!\w))?"
# Values are tried ungrouped first, so that a number in the next words is not included; then in groups.
_SHAPES = {
    "id number": rf"(?:\d{{7,15}}|\d(?:[ ./–-]{{0,3}}\d){{6,14}}){END}",
    "national insurance": r"[A-Z]{2}(?:[ -]?\d\d){3}[ -]?[A-Z](?!\w)",
    "mac": r"[\dA-F]{12}(?!\w)",
    "permanent account": r"[A-Z]{5}[ -]?\d{4}[ -]?[A-Z](?!\w)",
    "code": _CODE + NOT_A_QUANTITY,
    "passport": _PASSPORT,
    "long passport": r"(?:[A-Z]{1,3}[ -]?\d{6,9}|\d{7,9})(?!\w)",
    "account": rf"(?:\d{{7,20}}|\d(?:[ -]?\d){{6,19}}){END}",
    "wallet": r"(?=[A-Za-z]*\d)(?:0x)?[A-Za-z\d]{25,110}(?!\w)",
    "register": CR_VALUE + r"(?!\w)",
    "card": r"\d(?:[ -]?\d){11,18}(?!\w)",
    "phone": PHONE_VALUE + END,
    "zip": r"\d{4,5}(?:-\d{3,4})?(?!\w)",
    "postal code": r"\d{3}(?!\w)",
    "box": (
        r"\d{1,6}(?:[,،]? ?(?:(?:postal code|postcode|P\.? ?C\.?)|(?:و?(?:ال)?رمز (?:ال)?بريدي))[ :]*\d{3})?(?!\w)"
    ),
    "social security": r"\d{3}[ -]?\d{2}[ -]?\d{4}(?!\w)",
    "licence": r"(?:[A-Z]{0,5}\d[A-Z\d]{3,17}(?![\w-])|[A-Z]?\d+(?:[ -]\d+){1,4}(?!\w))",
    "plate": rf"(?-i:(?!{QUANTITY}){PLATE_VALUE})",
    "seven digits": r"\d{4} ?\d{3}(?!\w)(?![.,/-]\d)",
    "nine digits": r"\d(?:[ -]?\d){8}(?!\w)",
    "numbered plate": rf"(?-i:{PLATE_VALUE})",
    "plate number": r"(?:\d{1,2}/)?\d{3,6}(?:/\d{3,6})?(?![\w/-]|[.,]\d)" + NOT_A_QUANTITY,
    "handle": (
        r"(?:(?<![_*])(?:live:)?[@.]?(?=[\w.-]*[\d_]"
        r"|[\w-]+\.[a-z])[a-z_](?=[\w.-]*[a-z\d])[\w.-]{2,29}|@[a-z_][\w.-]{2,29}"
        r"|(?:(?<=[:=])|(?<=[:=] ))[a-z][\w.]{3,29}(?=[ \t]*(?:\n|\Z|[,;|)\]])))(?![\w@])"
    ),
    "user name": r"(?:(?<=[:=])|(?<=[:=] ))(?=\w*\d)[a-z_]\w{3,29}(?![\w.(@])",
    "date of birth": DATE_OF_BIRTH_VALUE,
    "chassis": r"(?=[A-Z\d-]*\d{3})[A-Z\d](?:-?[A-Z\d]){5,19}(?!\w)",
    "pin": rf"(?:[a-z]{{1,2}}-)?\d(?:[ -]?\d){{2,7}}{END}",
}
_UNITS = (
    r"(?:zero|oh?|nought|nil|one|two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir"
    r"|four|fif|six|seven|eigh|nine)teen|"
    r"twenty|thirty|forty|fourty|fifty|sixty|seventy|eighty|ninety|double|triple|treble|"
    r"صفر|واحد|[إا]ثنا[نى]|[إا]ثنين|[أا]ثن[اي]ن"
    r"|ثلاث[ةه]?|[أا]ربع[ةه]?|خمس[ةه]?|ست[ةه]?|سبع[ةه]?|ثمان(?:ي[ةه]?)?|تسع[ةه]?)"
)
SPOKEN = rf"(?<!\w){_UNITS}(?:[\s,،.-]{{1,3}}{_UNITS}(?!\w)){{3,31}}"
"""Pattern of a number in words, at least four of them."""
_HALVES = rf"(?:OMR ?|RO ?|USD ?|[$€£] ?)?\d{{1,8}}(?:\s?(?:[+&=x×]|\band\b|و)\s?\d{{1,7}})*{END}"
_BREAK = r"[ \t\r>|]*\n[ \t\r>|]*"
_GAP = rf"(?:[ _.-]{{0,2}}|{_BREAK})"
_NUMBER = rf"(?:(?:{_GAP}| ?[(\[])(?:(?:nos?|nr|num|numbers?|code|ids?|ref)(?![a-z\d])|#|№|n[°º]))"
_ARABIC_NUMBER = r"(?:ال)?رقم(?:ه|ها|ي|نا|كم|هم)?"
_OPENING = r"[\s+(\[{\"'“”«#*_>|]*"


@dataclass(frozen=True)
class Label:
    """A label in all its forms, and the form of the values beside it."""

    kind: Kind
    shape: str
    """Key of `_SHAPES`."""
    numbered: bool = False
    """Whether the label needs a word such as "number" or a colon beside it."""
    halves: bool = False
    """Whether eight digits may be split by arithmetic signs, "and" or a currency."""
    check: str = ""
    """Module of python-stdnum that verifies a value behind the label."""
    by: ClassVar[Literal["label"]] = "label"

    @cached_property
    def value(self) -> re.Pattern[str]:
        return re.compile(_SHAPES[self.shape], re.IGNORECASE)

    @cached_property
    def link_and_value(self) -> re.Pattern[str]:
        spoken = f"|{SPOKEN}(?!\\w)" if self.shape in _OF_DIGITS or self.shape == "plate" else ""
        return re.compile(rf"{LINK}(?P<value>{_SHAPES[self.shape]}{spoken})", re.IGNORECASE)

    def value_behind(self, text: str, end: int) -> tuple[int, int] | None:
        """Return the span of the value behind a label that ends at `end`."""
        match = self.link_and_value.match(text, end)
        if match is None and self.shape in _OF_DIGITS:
            ahead = text[end : end + _AHEAD]
            if (digits := _NUMBER_WITH_LETTERS.sub(_as_digits, ahead)) != ahead:
                match = self.link_and_value.match(text[:end] + digits + text[end + _AHEAD :], end)
        is_valid = match and (not self.check or importlib.import_module(self.check).is_valid(match["value"]))
        return match.span("value") if match and is_valid else None


_OF_DIGITS = frozenset(
    {
        "id number",
        "passport",
        "account",
        "card",
        "phone",
        "social security",
        "licence",
        "pin",
        "register",
        "plate number",
    }
)
_AHEAD = 60
# "1O4S 7B3Z": letters that are read as digits, where at least half of a number are digits.
_NUMBER_WITH_LETTERS = re.compile(r"(?<!\w)(?=(?:[A-Za-z|]?\d){2})[\dOoQDIl|iLSsBZzGgq]{4,20}(?!\w)")
_READ_AS_DIGITS = str.maketrans("OoQDIl|iLSsBZzGgq", "00001111155822699")


def _as_digits(number: re.Match[str]) -> str:
    return number.group().translate(_READ_AS_DIGITS)


LINK_AND_HALVES = re.compile(rf"{LINK}(?P<value>{_HALVES})", re.IGNORECASE)
UP_TO_A_NUMBER = re.compile(rf"{LINK}{_OPENING}", re.IGNORECASE)
"""Pattern of all that may stand between a label and a number in an unusual form."""


class LabelFound(NamedTuple):
    """A label in a text, and its half-open span."""

    label: Label
    start: int
    end: int


def labels_in(small: str) -> list[LabelFound]:
    """Return the labels in a text folded by `small_letters`, without those that begin within another."""
    found = set(_english_labels(f"{small}  "))
    if _ARABIC_LETTER.search(small):
        found.update(_arabic_labels(small))
    kept: list[LabelFound] = []
    start = end = 0
    for each in sorted(found, key=lambda each: (each.start, -each.end)):
        if each.start == start or each.start >= end:
            kept.append(each)
            start, end = each.start, max(end, each.end)
    return kept


def labels_between(labels: Sequence[LabelFound], start: int, end: int) -> Sequence[LabelFound]:
    """Return the labels that begin in text[start:end], of labels in reading order."""
    first = bisect_left(labels, start, key=lambda found: found.start)
    return labels[first : bisect_left(labels, end, first, key=lambda found: found.start)]


def small_letters(text: str) -> str:
    """Return the text in lower case, with one form of alef, at the same length."""
    small = text.lower()
    if len(small) != len(text):
        small = "".join(each if len(each) == 1 else each[0] for each in map(str.lower, text))
    return small.translate(_ALEFS)


_ALEFS = str.maketrans("إأآ", "ااا")
_ARABIC_LETTER = re.compile("[ء-ي]")
_ARABIC_WORD_BEGINS = re.compile(r"(?<![ء-ي])[وفبلك]{0,2}(?:ال|ل)?\Z")
_ARABIC_NUMBER_BEFORE = re.compile(rf"(?<![ء-ي])[وفبلك]{{0,2}}{_ARABIC_NUMBER}[ _](?:ال|ل)?\Z")


# The first letters of each word.
_BEGINNING = re.compile(r"(?<![^\W_])(?=([a-z]..))", re.DOTALL)


def _english_labels(small: str) -> Iterator[LabelFound]:
    for word in _BEGINNING.finditer(small):
        labels = _BY_LETTERS.get(word[1]) or _BY_LETTERS.get(word[1][:2])
        for label, pattern in labels or ():
            if match := pattern.match(small, word.start()):
                yield LabelFound(label, word.start(), match.end())


def _arabic_labels(small: str) -> Iterator[LabelFound]:
    for word, labels in _BY_ARABIC_WORD.items():
        start = small.find(word)
        while start >= 0:
            if begin := _ARABIC_WORD_BEGINS.search(small, max(0, start - 5), start):
                number = _ARABIC_NUMBER_BEFORE.search(small, max(0, start - 14), start)
                for label, pattern in labels:
                    match = pattern.match(small, start)
                    if match and (number or not label.numbered or match["number"]):
                        yield LabelFound(label, (number or begin).start(), match.end())
            start = small.find(word, start + 1)


REACHED_AT = re.compile(
    r"\b(?:(?:call|phone|ring|text|dial|reach|contact)(?: \w+){0,3} (?:on|at)|(?:answering|reachable|available) "
    rf"(?:at|on)|messages? (?:to|from)|my registered)[ :]{{1,3}}(?P<value>{PHONE_VALUE}{END})",
    re.IGNORECASE,
)
SIGNS_OF_REACHING = (
    "call", "phone", "ring", "text", "dial", "reach", "contact", "answering", "available", "message", "registered",
)  # fmt: skip


# --- the table's language ---------------------------------------------------------------------------------------------


def _english(phrase: str) -> str:
    """Return the pattern of a phrase: one slot a word, alternatives between bars, `?` behind an optional slot.
    Capitals are abbreviations, which may have dots."""
    pattern = ""
    slots = phrase.split()
    for place, slot in enumerate(slots):
        own = rf"(?:{'|'.join(map(_written, _words(slot)))})" + (
            "(?:['’]s)?" if place == len(slots) - 1 else "(?:['’]s?|s['’]?)?"
        )
        gap = _GAP if place else ""
        pattern += rf"(?:{gap}{own})?" if slot.endswith("?") and place else gap + own
    return pattern


def _written(word: str) -> str:
    """Return the pattern of an English word, of an abbreviation with or without dots, or of the word cut by a dot."""
    if word.isupper():
        return r"\.?".join(word.lower()) + "|" + " ".join(word.lower())
    rest = ""
    for letter in reversed(word[3:-1]):
        rest = rf"(?:{letter}{rest})?"
    return re.escape(word) + (rf"|{word[:3]}{rest}\." if len(word) > 4 and word.isalpha() else "")


def _arabic(phrase: str) -> str:
    """Return the pattern of an Arabic phrase, each word with or without article and pronoun."""
    pattern = ""
    for place, slot in enumerate(phrase.translate(_ALEFS).split()):
        own = rf"(?:{'|'.join(map(_inflected, _words(slot)))})"
        own = rf"(?:[ _]{{1,2}}|{_BREAK})(?:[بلو]?ال|لل|ب)?{own}" if place else own
        pattern += rf"(?:{own})?" if slot.endswith("?") and place else own
    return pattern


def _inflected(word: str) -> str:
    stem = re.escape(word.removesuffix("ة"))
    return rf"{stem}(?:[ةه]|ت(?:ه|ها|ي|نا|كم|هم|ك))" if word.endswith("ة") else rf"{stem}(?:ه|ها|ي|نا|كم|هم|ك)?"


def _words(slot: str) -> list[str]:
    return sorted(slot.removesuffix("?").split("|"), key=len, reverse=True)


def _phrases(rows: Sequence[str]) -> Iterator[str]:
    """Yield the phrases, and again without their first slot if it is optional."""
    for phrase in rows:
        first, _, rest = phrase.partition(" ")
        yield phrase
        if first.endswith("?"):
            yield rest


_ByWord = dict[str, list[tuple[Label, re.Pattern[str]]]]


def _read_table() -> tuple[tuple[Label, ...], _ByWord, _ByWord]:
    """Return the labels of `labels.json`, and their patterns: English by the first three letters, Arabic by the first
    word."""
    labels: list[Label] = []
    english: _ByWord = {}
    arabic: _ByWord = {}
    for row in json.loads(Path(__file__).with_name("labels.json").read_bytes()):
        facts = {key: row[key] for key in ("numbered", "halves", "check") if key in row}
        label = Label(row["kind"], row["shape"], **facts)
        labels.append(label)
        for phrase in _phrases(row["en"]):
            or_colon = r"|(?=\s?[:=])" if " " in phrase else ""
            number = f"(?:{_NUMBER}{or_colon})" if label.numbered else f"{_NUMBER}?"
            pattern = re.compile(rf"{_english(phrase)}{number}(?![a-z])\.?")
            words = _words(phrase.split()[0])
            abbreviations = [dot.join(word) for word in words for dot in ". " if word.isupper()]
            for letters in {word[:3].lower() for word in (*words, *abbreviations)}:
                english.setdefault(letters, []).append((label, pattern))
        for phrase in _phrases(row["ar"]):
            pattern = re.compile(rf"{_arabic(phrase)}(?![ء-ي])(?P<number>(?:[ _]|{_BREAK}){_ARABIC_NUMBER}(?![ء-ي]))?")
            for word in _words(phrase.translate(_ALEFS).split()[0]):
                arabic.setdefault(word.removesuffix("ة"), []).append((label, pattern))
    return tuple(labels), english, arabic


LABELS, _BY_LETTERS, _BY_ARABIC_WORD = _read_table()


# --- vehicles and vessels ---------------------------------------------------------------------------------------------

_VESSEL_EN = (
    r"\b(?:vessel|ship|dhow|boat|tanker|yacht|tug|barge|launch|ferry|trawler|craft)(?:'s)?\b"
    r"(?:[^.;\n\d]{0,40}?\b(?:official|hull|registration|registry))?,? (?:no\b\.?|number)(?: is| was)?[ :#]{0,2}"
)
_VESSEL_AR = (
    r"(?:ال)?(?:سفينة|سفينته|قارب|قاربه|مركب|يخت|عبّ?ارة|ناقلة)(?: (?!رقم)[ء-ي]+){0,3},? (?:و?رقم(?:ها|ه)?|"
    r"تحمل رقم|المسجلة? برقم)"
    r"(?: (?:ال)?(?:تسجيل|رسمي))?[ :]{0,2}"
)
VESSEL_NUMBER = re.compile(
    rf"(?i:{_VESSEL_EN}|{_VESSEL_AR})(?P<value>(?!(?:19|20)\d\d(?!\w))(?:[A-Z]{{1,3}}[ -]?)?\d{{4,9}})(?!\w)(?![.,]\d)"
    rf"{NOT_A_QUANTITY}"
)
SIGNS_OF_VESSELS = (
    "vessel", "ship", "dhow", "boat", "tanker", "yacht", "tug", "barge", "launch", "ferry", "trawler", "craft",
    "سفين", "قارب", "مركب", "يخت", "عبار", "ناقلة",
)  # fmt: skip


# --- addresses ---------------------------------------------------------------------------------------

_PLACE_EN = (
    r"(?:,? (?:in )?(?:(?:Al|al|Al-|Ras|Wadi|Bani|Bu|South|North|Umm|As|Ash|Ad|An|Ar)[ -])*[A-Z][a-z]+"
    r"(?: (?:(?:Al|Bu|Bani)[ -])?[A-Z][a-z]+){0,3})?"
)
_PLACE_AR = (
    r"(?:، (?!الرمز|ص\.?ب|هاتف|السكة|سكة|رقم|الرقم|المحامي|السيد|منذ|من |في |قرار)(?:(?:حي|ولاية|منطقة) )?"
    r"ال[ء-ي]+(?: (?:الجنوبية|الشمالية|الشرقية|الغربية|القديمة|الجديدة))?)?"
)
LOCAL_ADDRESSES = (
    re.compile(
        r"(?P<value>(?:(?i:house|villa|flat|building|apartment|shop|room)(?: [Nn]o\.?)? \d{1,5}[A-Z]?,? )+"
        rf"(?i:way|street|lane|block)(?: [Nn]o\.?)? \d{{1,5}}{_PLACE_EN})"
    ),
    re.compile(
        rf"(?P<value>(?i:way|street|lane)(?: [Nn]o\.?)? \d{{1,5}},? (?i:house|villa|building) \d{{1,5}}{_PLACE_EN})"
    ),
    re.compile(
        r"(?P<value>(?:(?:ال)?(?:منزل|بيت|فيلا|شقة|بناية|مبنى)(?: رقم)? \d{1,5}،? )+"
        rf"(?:ال)?(?:سكة|شارع|مجمع)(?: رقم)? \d{{1,5}}{_PLACE_AR})"
    ),
)
SIGNS_OF_ADDRESSES = ("way", "street", "lane", "block", "سكة", "شارع", "مجمع")


# --- dates of birth ---------------------------------------------------------------------------------------------------

SIGNS_OF_BIRTH = ("born", "birth", "dob", "yob", "d.o", "do.b", "ميلاد", "مواليد", "ولد", "مولود")
_YEAR = r"(?:19\d\d|20[0-3]\d)"
_HIJRI_YEAR = r"1[34]\d\d"
MONTH_OR_YEAR = rf"(?:(?:{MONTH}\.?(?: of)?[ ,/-]*|[01]?\d[/.-])?{_YEAR}(?: ?م)?|{_HIJRI_YEAR} ?(?:AH\b|H\b|هـ?))"
_END = (
    r"(?![\w/-]|[.,]\d)(?! (?:or|and) (?:later|earlier|after|before|since|younger|older)| onwards?| فما | فأكثر| وما )"
)
_LABEL = (
    r"(?:\b(?:(?:date|year|month)(?: and (?:year|month))? of birth|birth ?(?:date|day|year)|"
    r"D\.?O\.?B\b\.?|Y\.?O\.?B\b\.?)"
    r"|(?P<in_arabic>(?:تاريخ|سنة|عام) (?:ال)?ميلاد(?:ه|ها|ي)?))"
)
_LABEL_LINK = r"(?:\s*(?:\([^()\n]{1,14}\)|[:=(]|\bis\b|\bwas\b|هو|هي|في|عام|سنة))*\s*"
_PLACE = r"(?:,? (?:in|at|near) (?-i:[A-Z])[\w'’-]{1,30}(?:[ -](?-i:[A-Z])[\w'’-]{1,30}){0,3},?)??"
_WHEN = r"(?:,? (?:in|around|about|circa|during|early in|late in|the year|in the year|the month of|here|there))*\s"
_BORN = rf"\bborn{_PLACE}{_WHEN}"
_BORN_AR = r"(?:(?:من )?مواليد|ول(?:د|دت)|(?:ال)?مولود(?:ة)?)(?:\s(?:في|عام|سنة|شهر|خلال|بتاريخ|أواخر|أوائل))*\s"
# Births of groups, of unspecified people, and of things.
_SEVERAL = (
    r"(?:children|infants|babies|newborns|persons|people|those|anyone|anybody|everyone|everybody|all"
    r"|individuals|citizens|"
    r"nationals|residents|men|women|boys|girls|students|pupils|workers|employees|applicants|candidates"
    r"|members|cohorts?|"
    r"generations?|animals?|calves|foals|camels|lambs|patients|adults|youths?|omanis|others|immigrants|"
    r"(?:any|each|every|no|a) (?:person|child|infant|baby|citizen|national|one|applicant|candidate|animal|calf|foal))"
)
_NO_PERSON = (
    r"(?:authority|ministry|company|firm|bank|organi[sz]ation|agency|council|committee|department"
    r"|programme|program|project|"
    r"idea|plan|initiative|scheme|movement|nation|state|union|festival|port|city|town|club|party|concept|policy|term|"
    r"system|service|brand|industry|market|it|this|that|which)"
)
_BETWEEN = (
    r"(?:,? (?:who|that|which|were|was|is|are|have|has|had|been|being|not|both|of|here|abroad|in [A-Z]\w+)){0,4},? "
)
_OF_NOBODY = (
    rf"\b(?:{_SEVERAL}|{_NO_PERSON}){_BETWEEN}born\b"
    r"|(?:عدد|إجمالي|نسبة|الأطفال|الأشخاص|المواطنين|المواطنون|جيل|كل)(?: من)? (?:ال)?مواليد"
)
MONTH_OR_YEAR_OF_BIRTH = re.compile(
    rf"(?i){_OF_NOBODY}"
    rf"|(?:{_LABEL}{_LABEL_LINK}|{_BORN})(?P<value>{MONTH_OR_YEAR}|(?(in_arabic){_HIJRI_YEAR}|(?!))){_END}"
    rf"|{_BORN_AR}(?P<arabic>{MONTH_OR_YEAR}|{_HIJRI_YEAR}){_END}"
)


def is_when(value: str) -> bool:
    """Return whether the value behind a birth label contains a digit, so that it is a date, a month or a year."""
    return any(map(str.isdigit, value))
