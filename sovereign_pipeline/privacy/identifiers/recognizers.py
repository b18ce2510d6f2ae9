"""Structured identifiers: patterns with their labels inside, and checks of their digits. Oman and the Gulf first, then
what letters from abroad hold.

Patterns run on normalised text (`normalisation.py`), so that both digit sets and marked Arabic are covered by one
pattern. Only the value is reported, never its label. Names of people are `name_patterns.py`, addresses from abroad
`addresses.py`.
"""

import bisect
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace

import phonenumbers
from stdnum import luhn
from stdnum.iso7064 import mod_97_10

from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.privacy.identifiers.addresses import address_spans


@dataclass(frozen=True)
class Span:
    """A half-open span of normalised text. key: equal for two mentions of one value. labelled: the text itself says
    what the value is, so its kind is certain; an unlabelled one takes the kind of a labelled one with the same key.
    by_length: nothing but its length tells the kind, so that anything else that is recognised there goes before."""

    start: int
    end: int
    kind: Kind
    key: str
    labelled: bool = True
    by_length: bool = False


# --- parts of patterns -----------------------------------------------------------------------------------------------

_NOT_IN_WORD = r"(?<![\w/])"
_END = r"(?![\w/])(?![.,]\d)(?!-\d)"
# What may stand between a label and its value: "no.", "number is", ":", "of my son is", "رقم", "هو", "رقمها".
_LINK_EN = r"(?:\s*(?:[:#=(]|\b(?:no|nr|num|number|is|was|are|card)\b\.?|\bof\b[^\d.;\n]{0,30}?\b(?:is|was)\b))*\s*"
_LINK_AR = r"(?:\s*(?:[:#=(]|رقم(?:ه|ها|ي|نا)?|ذات الرقم|ذو الرقم|الرقم|هو|هي|وهو|وهي|كان))*\s*"
# Written together first, so that a number in the next words is not swallowed; then in groups.
_EIGHT_OR_SO = r"(?:\d{7,10}|\d(?:[ -]?\d){6,9})"
_ACCOUNT = r"(?:\d{7,20}|\d(?:[ -]?\d){6,19})"
_MONTH = (
    r"(?:January|February|March|April|May|June|July|August|September|October|November|December|"
    r"Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|"
    r"يناير|فبراير|مارس|أبريل|ابريل|إبريل|مايو|يونيو|يوليو|أغسطس|اغسطس|سبتمبر|أكتوبر|اكتوبر|نوفمبر|ديسمبر)"
)
_DATE = (
    rf"(?:\d{{1,2}}(?:st|nd|rd|th)?[ -](?:of )?{_MONTH}[ ,-]*\d{{4}}|{_MONTH} \d{{1,2}},? \d{{4}}"
    r"|\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](?:\d{4}|\d{2}))"
)
_PLACE_EN = (
    r"(?:,? (?:in )?(?:(?:Al|al|Al-|Ras|Wadi|Bani|Bu|South|North|Umm|As|Ash|Ad|An|Ar)[ -])*[A-Z][a-z]+"
    r"(?: (?:(?:Al|Bu|Bani)[ -])?[A-Z][a-z]+){0,3})?"
)
_PLACE_AR = (
    r"(?:، (?!الرمز|ص\.?ب|هاتف|السكة|سكة|رقم|الرقم|المحامي|السيد|منذ|من |في |قرار)(?:(?:حي|ولاية|منطقة) )?"
    r"ال[ء-ي]+(?: (?:الجنوبية|الشمالية|الشرقية|الغربية|القديمة|الجديدة))?)?"
)


def _labelled(label: str, link: str, value: str) -> re.Pattern[str]:
    return re.compile(rf"{label}{link}(?P<value>{value})", re.IGNORECASE)


_NID_LABEL_EN = (
    r"\b(?:civil (?:id|number|no|card|identity)|national (?:id|number|identity)|ID(?: card)?(?= ?(?:no|number|[:#]|\d))"
    r"|ID card|identity card)\b\.?"
)
_NID_LABEL_AR = (
    r"(?:الرقم المدني|رقم(?:ه|ها|ي|نا|كم)? المدني|البطاقة المدنية|بطاقة(?:ه|ها|ي)? المدنية|بطاقته|بطاقتها|الهوية)"
)
_CARD_LABEL_EN = r"\b(?:resident(?:'s|ce|cy)? (?:card|permit|id))\b\.?"
_CARD_LABEL_AR = r"(?:بطاقة (?:ال)?مقيم|بطاقة (?:ال)?إقامة|بطاقت(?:ه|ها) مقيم|الإقامة)"
_PASSPORT_LABEL = r"(?:\bpassport\b\.?|جواز(?:ه|ها|ي)?(?: (?:ال)?سفر(?:ه|ها|ي)?)?)"
_ACCOUNT_LABEL_EN = r"\b(?:(?:bank |salary |current )?account|acct|a/c)\b\.?"
_ACCOUNT_LABEL_AR = r"(?:(?:ال|ل|ب)?حساب(?:ه|ها|ي|نا)?(?: (?:ال)?(?:بنكي|مصرفي|جاري))?)"
_CR_LABEL_EN = r"\b(?:C\.?R\.?|commercial reg(?:istration|ister|\.)?)\b\.?"
_CR_LABEL_AR = r"(?:(?:ال)?سجل(?:ه|ها|نا)? (?:ال)?تجاري(?:ة)?|س\. ?ت\.?)"
_PHONE_LABEL = (
    r"(?:\b(?:tele)?phones?\b|\btel\b|\bmobile\b|\bGSM\b|\bcell\b|\bwhats ?app\b|\bfax\b|\bdirect line\b"
    r"|(?:ال)?هاتف(?:ه|ها|ي|نا)?|(?:ال)?جوال(?:ه|ها|ي)?|(?:ال)?نقال(?:ه|ها|ي)?|(?:ال)?فاكس|واتس ?اب)\.?"
)
_EXTENSION = r"(?: ?(?:x|ext\.? ?)\d{1,5})?"
_PHONE_VALUE = (
    r"(?:\(?(?:\+|00) ?\d{1,3}\)?[ .-]?(?:\(0\) ?)?)?(?:\(\d{1,5}\)[ .-]?\d|\d)(?:[ .-]?\d){4,11}" + _EXTENSION
)
_REACHED_AT = (
    r"\b(?:(?:call|phone|ring|text|dial|reach|contact)(?: \w+){0,3} (?:on|at)|(?:answering|reachable|available) "
    r"(?:at|on)|messages? (?:to|from)|my registered(?: number)?|(?:desk|office|direct)(?=:))"
)
_PLATE_LETTERS = r"(?:[A-Z] ?[A-Z]?|[ء-ي](?: ?[ء-ي])?)"

_IBAN = re.compile(
    rf"{_NOT_IN_WORD}[A-Z]{{2}}\d{{2}}(?:[A-Z0-9]{{10,30}}|(?:[ -][A-Z0-9]{{4}}){{2,7}}(?:[ -][A-Z0-9]{{1,3}})?)(?!\w)",
    re.IGNORECASE,
)
_CARD_NUMBER = re.compile(rf"{_NOT_IN_WORD}(?<!\d[ -])(?:\d{{12,19}}|\d{{4}}(?:[ -]\d{{3,6}}){{2,4}})(?![ -]?\d)(?!\w)")
_EMAIL = re.compile(r"(?<![\w.+%'-])[\w.+%'-]*\w@\w[\w-]*(?:\.\w[\w-]*)+")
_PREFIXED_PHONE = re.compile(r"(?<![\w+])\(?(?:\+|00) ?\(?\d{1,3}\)?(?:[ -]?\(?\d\)?){6,12}(?!\w)")
_GROUPED_PHONE = re.compile(
    r"(?<![\w+.,/-])(?<!\d )(?!(?:19|20)\d\d-\d\d-\d\d)(?:\(\d{1,5}\)[ .-]?|\d{1,5}[ .-])(?:\(0\))?"
    rf"\d{{2,4}}(?:[ .-]\d{{2,4}}){{0,3}}{_EXTENSION}(?!\w)(?![.,/:-]\d)"
)
_PHONE_BEFORE_ITS_LABEL = re.compile(
    rf"(?<![\w+./-])(?P<value>{_PHONE_VALUE})(?= ?[-,]? ?\(?(?i:office|fax|mobile|home|work|cell|tel)\b)"
)
_SSN = re.compile(r"(?<![\w-])(?!000|666)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])")
_IP_V4 = re.compile(r"(?<![\w.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\w.]*\d)")
_IP_V6 = re.compile(
    r"(?<![\w:.])(?:(?:[0-9A-Fa-f]{1,4}:){7}[0-9A-Fa-f]{1,4}|(?:[0-9A-Fa-f]{1,4}:){1,6}(?::[0-9A-Fa-f]{1,4}){1,6})(?![\w:])"
)
_URL = re.compile(r"(?i)(?:https?://|www\.)[^\s<>\"'|]*[^\s<>\"'|.,;:!?)]")
_TIME = r"(?:[ T]\d{1,2}:\d{2}(?::\d{2})?)?"
_ANY_DATE = re.compile(
    rf"(?<![\w/.-])(?:{_DATE}{_TIME}|\d{{1,2}} {_MONTH}|(?:19|20)\d\d)(?![\w/-]|\.\d)", re.IGNORECASE
)
_AGE = re.compile(
    r"(?i)(?<![\w.,/-])(?P<before>1?\d?\d)(?=(?:-| )?(?:years?|yrs?|months?)(?:-| )(?:old|of age)|[ -]?y/?o\b)"
    r"|\b(?:aged|age of|age:?|turn(?:ed|s|ing)?|when (?:he|she|they|i|we) (?:was|were)) "
    r"(?P<after>1?\d?\d)(?![\w/-]|[.,]\d)"
)
_LOCAL_PHONE = re.compile(rf"{_NOT_IN_WORD}(?<!\d[.,: -])[2789]\d{{3}}[ -]?\d{{4}}{_END}")
_NOT_AN_AMOUNT = r"(?<!\bOMR )(?<!\bOMR)(?<!\bRO )(?<!\d[.,:-])"
_FILE_NUMBER = re.compile(r"\b[A-Z]{2,6}/\d{2,4}/\d+\b")
_TIMESTAMP = re.compile(r"(?<![\d-])(?:19|20)\d\d-[01]\d-[0-3]\d[ T][0-2]?\d:[0-5]\d(?::[0-5]\d)?")
_LONG_NUMBER = re.compile(rf"(?<!\w){_NOT_AN_AMOUNT}(?:\d{{8,}}|\d{{2,}}(?:[ -]\d{{2,}})+){_END}")
_YEARS_OR_DATE = re.compile(
    r"(?:19|20)\d\d[ -](?:19|20)\d\d|(?:19|20)\d\d[ -][01]?\d[ -][0-3]?\d|[0-3]?\d[ -][01]?\d[ -](?:19|20)\d\d"
)
_PASSPORT_SHAPE = re.compile(rf"{_NOT_IN_WORD}[A-Z]{{1,2}}\d{{7,9}}(?!\w)")
_DIGIT = re.compile("[0-9]")
# Omani numbering plan: mobile 7[1-9], 9[1-9]; fixed 2[1-6]; toll-free 800.
_OMANI = re.compile(r"7[1-9]\d{6}|9[1-9]\d{6}|2[1-6]\d{6}|800\d{5}")
_STRICT_EMAIL = re.compile(r"(?<![^\s@])[^\s@]+@[^\s@]+")
_STRICT_PREFIX = re.compile(r"(?:\+|\b00) ?968\D{0,3}\d")
_STRICT_IBAN = re.compile(r"(?i)(?<!\w)[A-Z]{2} ?\d{2}(?:[ -]?\d){10,}")
# Glued to letters, as in web addresses and in tables whose cells ran together.
_GLUED_NUMBER = re.compile(rf"(?<![\d.,]){_NOT_AN_AMOUNT}\d{{8,}}+(?![.,]\d)")

_LABELLED: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("NID", _labelled(_NID_LABEL_EN, _LINK_EN, _EIGHT_OR_SO + _END)),
    ("NID", _labelled(_NID_LABEL_AR, _LINK_AR, _EIGHT_OR_SO + _END)),
    ("RESIDENT_CARD", _labelled(_CARD_LABEL_EN, _LINK_EN, _EIGHT_OR_SO + _END)),
    ("RESIDENT_CARD", _labelled(_CARD_LABEL_AR, _LINK_AR, _EIGHT_OR_SO + _END)),
    ("PASSPORT", _labelled(_PASSPORT_LABEL, rf"(?:{_LINK_EN}|{_LINK_AR})", r"[A-Z]{0,3} ?\d{5,9}(?!\w)")),
    ("ACCOUNT", _labelled(_ACCOUNT_LABEL_EN, _LINK_EN, _ACCOUNT + _END)),
    ("ACCOUNT", _labelled(_ACCOUNT_LABEL_AR, _LINK_AR, _ACCOUNT + _END)),
    ("CR", _labelled(_CR_LABEL_EN, _LINK_EN, r"\d{5,10}(?:[/-]\d{1,3})?(?!\w)")),
    ("CR", _labelled(_CR_LABEL_AR, _LINK_AR, r"\d{5,10}(?:[/-]\d{1,3})?(?!\w)")),
    ("CARD", _labelled(r"\b(?:credit|debit|visa|mastercard|bank) card\b\.?", _LINK_EN, r"\d(?:[ -]?\d){11,18}(?!\w)")),
    ("CARD", _labelled(r"بطاقة (?:ال)?(?:ائتمان(?:ية)?|بنكية|مصرفية|خصم)", _LINK_AR, r"\d(?:[ -]?\d){11,18}(?!\w)")),
    ("PHONE", _labelled(_PHONE_LABEL, rf"(?:{_LINK_EN}|{_LINK_AR})", _PHONE_VALUE + _END)),
    ("PHONE", _labelled(_REACHED_AT, r"[ :]{1,3}", _PHONE_VALUE + _END)),
    (
        "SSN",
        _labelled(r"\b(?:SSN|social security(?: (?:number|no))?)\b\.?", _LINK_EN, r"\d{3}[ -]?\d{2}[ -]?\d{4}(?!\w)"),
    ),
    (
        "DRIVING_LICENCE",
        _labelled(
            r"(?:\bdriv(?:er'?s?'?|ing) licen[cs]e\b|رخصة (?:ال)?(?:قيادة|سياقة))",
            rf"(?:{_LINK_EN}|{_LINK_AR})",
            r"[A-Z]{0,5}\d[A-Z\d]{3,17}(?![\w-])|[A-Z]?\d+(?:[ -]\d+){1,4}(?!\w)",
        ),
    ),
    ("PO_BOX", _labelled(r"\bzip(?: ?code)?\b", r"(?:\s*(?:[:]|\bis\b))?\s*", r"\d{4,5}(?:-\d{3,4})?(?!\w)")),
    (
        "PO_BOX",
        _labelled(
            r"(?:\bP\.? ?O\.? ?Box\b\.?|ص ?\. ?ب\.?|صندوق (?:ال)?بريد)",
            rf"(?:{_LINK_EN}|{_LINK_AR})",
            r"\d{1,6}(?:[,،]? ?(?:(?:postal code|postcode|P\.? ?C\.?)|(?:و?(?:ال)?رمز (?:ال)?بريدي))[ :]*\d{3})?(?!\w)",
        ),
    ),
    ("PO_BOX", _labelled(r"(?:\bpostal code\b|(?:ال)?رمز (?:ال)?بريدي)", r"[ :]*", r"\d{3}(?!\w)")),
    (
        "DATE_OF_BIRTH",
        _labelled(
            r"(?:\bborn(?: on(?: the)?)?|\bdate of birth|\bbirth(?:day| date)|\bD\.?O\.?B\.?|"
            r"مواليد(?: يوم)?|تاريخ (?:ال)?ميلاد(?:ه|ها|ي)?|المولود(?:ة)?(?: في| بتاريخ)?|ولد(?:ت)?(?: في| بتاريخ)?)",
            r"(?:\s*(?:[:(]|\bis\b|\bwas\b|هو|في))*\s*",
            _DATE + r"(?!\d)",
        ),
    ),
    (
        "PLATE",
        re.compile(
            r"(?i:\b(?:number[ -])?plates?|\bvehicle|\bregistered as|(?:ال)?مركبة|(?:ال)?لوحة(?: (?:ال)?مركبة)?)"
            r"(?i:[ ,:]*(?:plate|no\.?|number|with|is|رقم(?:ها)?|رقم اللوحة))*[ ,:]*"
            rf"(?P<value>\d{{1,5}} ?{_PLATE_LETTERS})(?!\w)"
        ),
    ),
    (
        "ADDRESS",
        re.compile(
            r"(?P<value>(?:(?i:house|villa|flat|building|apartment|shop|room)(?: [Nn]o\.?)? \d{1,5}[A-Z]?,? )+"
            rf"(?i:way|street|lane|block)(?: [Nn]o\.?)? \d{{1,5}}{_PLACE_EN})"
        ),
    ),
    (
        "ADDRESS",
        re.compile(
            rf"(?P<value>(?i:way|street|lane)(?: [Nn]o\.?)? \d{{1,5}},? (?i:house|villa|building) \d{{1,5}}{_PLACE_EN})"
        ),
    ),
    (
        "ADDRESS",
        re.compile(
            r"(?P<value>(?:(?:ال)?(?:منزل|بيت|فيلا|شقة|بناية|مبنى)(?: رقم)? \d{1,5}،? )+"
            rf"(?:ال)?(?:سكة|شارع|مجمع)(?: رقم)? \d{{1,5}}{_PLACE_AR})"
        ),
    ),
)

# Later entries give way to earlier ones where two spans overlap; within one kind the longer wins.
PRIORITY: tuple[Kind, ...] = (
    "EMAIL",
    "IBAN",
    "IP",
    "SSN",
    "DRIVING_LICENCE",
    "NID",
    "RESIDENT_CARD",
    "PASSPORT",
    "CR",
    "DATE_OF_BIRTH",
    "ADDRESS",
    "PO_BOX",
    "PLATE",
    "PHONE",
    "CARD",
    "ACCOUNT",
    "URL",
    "AGE",
    "DATE",
    "NAME",
    "ORGANISATION",
    "PLACE",
    "NATIONALITY",
)
_RANK = {kind: rank for rank, kind in enumerate(PRIORITY)}
# Identifiers go before names, and names before what a model takes for a place or an organisation.
_STANDING: dict[Kind, int] = {"NAME": 1, "ORGANISATION": 2, "PLACE": 2, "NATIONALITY": 2, "DATE": 2, "AGE": 2}
_GIVES_WAY_IN_PART = frozenset({"ORGANISATION", "PLACE"})


def structured_spans(text: str, also: frozenset[Kind] = frozenset()) -> list[Span]:
    """Every structured identifier of a normalised text, without overlaps, in reading order.

    also: of KEPT_BY_DEFAULT those with a pattern (URL, DATE, AGE) that are looked for too. Besides what a label or a
    checksum tells, every run of eight digits or more that is no date, amount or file number is taken, also when it is
    glued to letters, since a number that is kept by mistake cannot be taken back.
    """
    found: list[Span] = []
    if "@" in text:
        found += [_span(match, "EMAIL") for match in _EMAIL.finditer(text)]
    if _DIGIT.search(text):
        for kind, pattern in _LABELLED:
            found += [_span(match, kind, group="value") for match in pattern.finditer(text)]
        found += [
            _span(match, "IBAN", labelled=_is_iban(match.group()))
            for match in _IBAN.finditer(text)
            if sum(character.isdigit() for character in match.group()) >= 10
        ]
        found += [
            _span(match, "CARD", labelled=False) for match in _CARD_NUMBER.finditer(text) if _is_card(match.group())
        ]
        found += [_span(match, "PHONE", labelled=False) for match in _PREFIXED_PHONE.finditer(text)]
        found += [
            _span(match, "PHONE", labelled=False) for match in _LOCAL_PHONE.finditer(text) if _is_omani(match.group())
        ]
        found += [
            _span(match, "PHONE", labelled=False)
            for match in _GROUPED_PHONE.finditer(text)
            if _is_grouped(match.group())
        ]
        found += [_span(match, "PHONE", group="value") for match in _PHONE_BEFORE_ITS_LABEL.finditer(text)]
        found += [_span(match, "PASSPORT", labelled=False) for match in _PASSPORT_SHAPE.finditer(text)]
        found += [_span(match, "SSN", labelled=False) for match in _SSN.finditer(text)]
        found += [_span(match, "IP") for pattern in (_IP_V4, _IP_V6) for match in pattern.finditer(text)]
        found += [_address(text, *span) for span in address_spans(text)]
        if "DATE" in also:
            found += [_span(match, "DATE", labelled=False) for match in _ANY_DATE.finditer(text)]
        if "AGE" in also:
            found += [_span(match, "AGE", group=match.lastgroup or 0) for match in _AGE.finditer(text)]
    if "URL" in also:
        found += [_span(match, "URL", labelled=False) for match in _URL.finditer(text)]
    return without_overlaps([*found, *_long_numbers(text)])


def leftovers(text: str) -> list[Span]:
    """The stricter reading for text that was scrubbed: also what only looks like an e-mail, a prefix or an IBAN."""
    found = structured_spans(text)
    found += [_span(match, "EMAIL", labelled=False) for match in _STRICT_EMAIL.finditer(text)]
    found += [_span(match, "PHONE", labelled=False) for match in _STRICT_PREFIX.finditer(text)]
    found += [_span(match, "IBAN", labelled=False) for match in _STRICT_IBAN.finditer(text)]
    return without_overlaps(found)


def without_overlaps(spans: Iterable[Span]) -> list[Span]:
    """Of spans that overlap keep identifiers before names, labelled before others, then by PRIORITY, the longest.

    What a model takes for a place or an organisation gives way in part: what is left beside the stronger span stays.
    """
    kept: list[Span] = []  # always in reading order
    waiting = sorted(spans, key=_strength)
    for span in waiting:
        place = bisect.bisect_left(kept, span.start, key=_by_start)
        before = place == 0 or kept[place - 1].end <= span.start
        after = place == len(kept) or span.end <= kept[place].start
        if before and after:
            kept.insert(place, span)
        elif span.kind in _GIVES_WAY_IN_PART:
            for piece in _beside(span, kept):
                kept.insert(bisect.bisect_left(kept, piece.start, key=_by_start), piece)
    return kept


def _beside(span: Span, kept: Iterable[Span]) -> list[Span]:
    """The pieces of two letters or more that no kept span covers. The key of such a span is its text."""
    pieces = []
    position = span.start
    for other in [each for each in kept if each.end > span.start and each.start < span.end]:
        pieces.append((position, other.start))
        position = max(position, other.end)
    pieces.append((position, span.end))
    found = []
    for start, end in pieces:
        text = span.key[start - span.start : max(0, end - span.start)]
        word = re.search(r"\w(?:.*\w)?", text, re.DOTALL)
        if word and sum(character.isalpha() for character in word.group()) >= 2 and word.group() not in ("and", "of"):
            found.append(replace(span, start=start + word.start(), end=start + word.end(), key=word.group()))
    return found


def value_key(kind: Kind, value: str) -> str:
    """Equal for two ways to write one value: separators, letter case and the country prefix of a phone drop out."""
    plain = "".join(character for character in value if character.isalnum()).casefold()
    if kind == "PHONE":
        return re.sub(r"^(?:00)?968(?=\d{8}$)", "", plain)
    return plain


def _span(match: re.Match[str], kind: Kind, group: str | int = 0, labelled: bool = True) -> Span:
    return Span(match.start(group), match.end(group), kind, value_key(kind, match[group]), labelled)


def _address(text: str, start: int, end: int) -> Span:
    return Span(start, end, "ADDRESS", value_key("ADDRESS", text[start:end]))


def _is_grouped(value: str) -> bool:
    """Eight digits or more in groups that are no date, and no amount: thousands come in groups of three alone."""
    digits = sum(character.isdigit() for character in re.split("x|ext", value)[0])
    amount = re.fullmatch(r"\d{1,3}(?: \d{3})+", value) is not None
    return 8 <= digits <= 13 and not amount and _YEARS_OR_DATE.fullmatch(value) is None


def _is_iban(value: str) -> bool:
    plain = re.sub("[ -]", "", value).upper()
    return bool(mod_97_10.is_valid(plain[4:] + plain[:4]))


def _is_card(value: str) -> bool:
    return bool(luhn.is_valid(re.sub("[ -]", "", value)))


def _is_omani(value: str) -> bool:
    plain = re.sub("[ -]", "", value)
    return _OMANI.fullmatch(plain) is not None or phonenumbers.is_valid_number(phonenumbers.parse(plain, "OM"))


def _by_start(span: Span) -> int:
    return span.start


def _strength(span: Span) -> tuple[int, bool, bool, int, int, int]:
    return (
        _STANDING.get(span.kind, 0),
        not span.labelled,
        span.by_length,
        _RANK[span.kind],
        span.start - span.end,
        span.start,
    )


def _without_file_numbers(text: str) -> str:
    """The same text, of the same length, with the institution's own file numbers and points in time blotted out."""
    for pattern in (_FILE_NUMBER, _TIMESTAMP):
        text = pattern.sub(lambda match: "#" * len(match.group()), text)
    return text


def _long_numbers(text: str) -> list[Span]:
    plain = _without_file_numbers(text)
    found = [match for match in _LONG_NUMBER.finditer(plain) if _is_long_number(match.group())]
    return [_by_length(match) for match in (*found, *_GLUED_NUMBER.finditer(plain))]


def _by_length(match: re.Match[str]) -> Span:
    kind: Kind = "NID" if sum(character.isdigit() for character in match.group()) == 8 else "ACCOUNT"
    return replace(_span(match, kind, labelled=False), by_length=True)


def _is_long_number(value: str) -> bool:
    return sum(character.isdigit() for character in value) >= 8 and _YEARS_OR_DATE.fullmatch(value) is None
