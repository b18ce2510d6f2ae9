"""Identifiers that the text names: a label, what may stand between the two, and the value.

What belongs here: labels in English and Arabic, Oman and the Gulf first, and the form of the value behind each. What
does not: values that are told by their form alone (`shapes.py`), addresses from abroad (`addresses.py`).
"""

import re

from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.privacy.identifiers.fragments import DATE, END, HIJRI_DATE, LINK_AR, LINK_EN, PHONE_VALUE
from sovereign_pipeline.privacy.identifiers.vehicles import PLATE, SIGNS_OF_PLATES

# Written together first, so that a number in the next words is not swallowed; then in groups.
_EIGHT_OR_SO = r"(?:\d{7,10}|\d(?:[ -]?\d){6,9})"
_ACCOUNT = r"(?:\d{7,20}|\d(?:[ -]?\d){6,19})"
_PLACE_EN = (
    r"(?:,? (?:in )?(?:(?:Al|al|Al-|Ras|Wadi|Bani|Bu|South|North|Umm|As|Ash|Ad|An|Ar)[ -])*[A-Z][a-z]+"
    r"(?: (?:(?:Al|Bu|Bani)[ -])?[A-Z][a-z]+){0,3})?"
)
_PLACE_AR = (
    r"(?:، (?!الرمز|ص\.?ب|هاتف|السكة|سكة|رقم|الرقم|المحامي|السيد|منذ|من |في |قرار)(?:(?:حي|ولاية|منطقة) )?"
    r"ال[ء-ي]+(?: (?:الجنوبية|الشمالية|الشرقية|الغربية|القديمة|الجديدة))?)?"
)
_NID_LABEL_EN = (
    r"\b(?:civil (?:id|number|no|card|identity)|national (?:id|number|identity)|ID(?: card)?(?= ?(?:no|number|[:#]|\d))"
    r"|ID card|identity card)\b\.?"
)
_NID_LABEL_AR = (
    r"(?:الرقم المدني|رقم(?:ه|ها|ي|نا|كم)? المدني|البطاقة المدنية|بطاقة(?:ه|ها|ي)? المدنية|بطاقته|بطاقتها|الهوية)"
)
_CARD_LABEL_EN = r"\b(?:resident(?:'s|ce|cy)? (?:card|permit|id)|iqama)\b\.?"
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
PHONE_LABEL_SIGNS = (
    "phone", "tel", "mobile", "gsm", "cell", "whats", "fax", "direct line", "هاتف", "جوال", "نقال", "فاكس", "واتس",
)  # fmt: skip
"""What every such label holds, in small letters."""
_REACHED_AT = (
    r"\b(?:(?:call|phone|ring|text|dial|reach|contact)(?: \w+){0,3} (?:on|at)|(?:answering|reachable|available) "
    r"(?:at|on)|messages? (?:to|from)|my registered(?: number)?|(?:desk|office|direct)(?=:))"
)


def _labelled(label: str, link: str, value: str) -> re.Pattern[str]:
    return re.compile(rf"{label}{link}(?P<value>{value})", re.IGNORECASE)


def _at_end(label: str, link: str) -> re.Pattern[str]:
    return re.compile(rf"{label}{link}\Z", re.IGNORECASE)


_CREDIT_CARD_LABEL_EN = r"\b(?:credit|debit|visa|mastercard|bank) card\b\.?"
_CREDIT_CARD_LABEL_AR = r"بطاقة (?:ال)?(?:ائتمان(?:ية)?|بنكية|مصرفية|خصم)"
_SSN_LABEL = r"\b(?:SSN|social security(?: (?:number|no))?)\b\.?"
_LICENCE_LABEL = r"(?:\bdriv(?:er'?s?'?|ing) licen[cs]e\b|رخصة (?:ال)?(?:قيادة|سياقة))"
_BIRTH_LABEL = (
    r"(?:\bborn(?: on(?: the)?)?|\bdate of birth|\bbirth(?:day| date)|\bD\.?O\.?B\.?|"
    r"مواليد(?: يوم)?|تاريخ (?:ال)?ميلاد(?:ه|ها|ي)?|(?:ال)?مولود(?:ة)?(?: في| بتاريخ)?|ولد(?:ت)?(?: في| بتاريخ)?)"
)
_BIRTH_LINK = r"(?:\s*(?:\((?:[dmy/ .-]{2,14}|hijri|AH|هجر[يةه]{1,2})\)|\bin\b|[:=(]|\bis\b|\bwas\b|هو|في))*\s*"
_EITHER_LINK = rf"(?:{LINK_EN}|{LINK_AR})"

# A firm's number, a branch behind it; or the branch, the office and the number between slashes.
CR_VALUE = r"(?:\d{1,2}/\d{5,7}(?:/\d{1,2})?|\d{1,2}/\d{2,5}/\d{2,7}|\d{5,10}(?:[/-]\d{1,3})?)"
# Each pattern has the value, without its label, as the group `value`.
LABELLED_PATTERNS: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("NID", _labelled(_NID_LABEL_EN, LINK_EN, _EIGHT_OR_SO + END)),
    ("NID", _labelled(_NID_LABEL_AR, LINK_AR, _EIGHT_OR_SO + END)),
    ("RESIDENT_CARD", _labelled(_CARD_LABEL_EN, LINK_EN, _EIGHT_OR_SO + END)),
    ("RESIDENT_CARD", _labelled(_CARD_LABEL_AR, LINK_AR, _EIGHT_OR_SO + END)),
    ("PASSPORT", _labelled(_PASSPORT_LABEL, rf"(?:{LINK_EN}|{LINK_AR})", r"[A-Z]{0,3} ?\d{5,9}(?!\w)")),
    ("ACCOUNT", _labelled(_ACCOUNT_LABEL_EN, LINK_EN, _ACCOUNT + END)),
    ("ACCOUNT", _labelled(_ACCOUNT_LABEL_AR, LINK_AR, _ACCOUNT + END)),
    ("CR", _labelled(_CR_LABEL_EN, LINK_EN, CR_VALUE + r"(?!\w)")),
    ("CR", _labelled(_CR_LABEL_AR, LINK_AR, CR_VALUE + r"(?!\w)")),
    ("CARD", _labelled(_CREDIT_CARD_LABEL_EN, LINK_EN, r"\d(?:[ -]?\d){11,18}(?!\w)")),
    ("CARD", _labelled(_CREDIT_CARD_LABEL_AR, LINK_AR, r"\d(?:[ -]?\d){11,18}(?!\w)")),
    ("PHONE", _labelled(_PHONE_LABEL, rf"(?:{LINK_EN}|{LINK_AR})", PHONE_VALUE + END)),
    ("PHONE", _labelled(_REACHED_AT, r"[ :]{1,3}", PHONE_VALUE + END)),
    (
        "SSN",
        _labelled(_SSN_LABEL, LINK_EN, r"\d{3}[ -]?\d{2}[ -]?\d{4}(?!\w)"),
    ),
    (
        "DRIVING_LICENCE",
        _labelled(
            _LICENCE_LABEL,
            _EITHER_LINK,
            r"[A-Z]{0,5}\d[A-Z\d]{3,17}(?![\w-])|[A-Z]?\d+(?:[ -]\d+){1,4}(?!\w)",
        ),
    ),
    ("PO_BOX", _labelled(r"\bzip(?: ?code)?\b", r"(?:\s*(?:[:]|\bis\b))?\s*", r"\d{4,5}(?:-\d{3,4})?(?!\w)")),
    (
        "PO_BOX",
        _labelled(
            r"(?:\bP\.? ?O\.? ?Box\b\.?|ص ?\. ?ب\.?|صندوق (?:ال)?بريد)",
            rf"(?:{LINK_EN}|{LINK_AR})",
            r"\d{1,6}(?:[,،]? ?(?:(?:postal code|postcode|P\.? ?C\.?)|(?:و?(?:ال)?رمز (?:ال)?بريدي))[ :]*\d{3})?(?!\w)",
        ),
    ),
    ("PO_BOX", _labelled(r"(?:\bpostal code\b|(?:ال)?رمز (?:ال)?بريدي)", r"[ :]*", r"\d{3}(?!\w)")),
    (
        "DATE_OF_BIRTH",
        _labelled(
            _BIRTH_LABEL,
            _BIRTH_LINK,
            rf"(?:{HIJRI_DATE}|{DATE})(?!\d)",
        ),
    ),
    ("PLATE", PLATE),
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

# For the stricter reading: signs of sums, "and" or a currency do not end a number that a label names.
_HALVES = r"(?:OMR ?|RO ?|USD ?|[$€£] ?)?\d{1,8}(?:\s?(?:[+&=x×]|\band\b|و)\s?\d{1,7})*"
STRICT_LABELLED_PATTERNS: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("NID", _labelled(_NID_LABEL_EN, LINK_EN, _HALVES + END)),
    ("NID", _labelled(_NID_LABEL_AR, LINK_AR, _HALVES + END)),
    ("RESIDENT_CARD", _labelled(_CARD_LABEL_EN, LINK_EN, _HALVES + END)),
    ("RESIDENT_CARD", _labelled(_CARD_LABEL_AR, LINK_AR, _HALVES + END)),
    ("PHONE", _labelled(_PHONE_LABEL, _EITHER_LINK, _HALVES + END)),
)
PASSPORT_WITH_LETTERS = _labelled(
    _PASSPORT_LABEL, _EITHER_LINK, r"(?=(?:[A-Z]{0,5}\d){4})(?=\d{0,8}[A-Z])[A-Z\d]{6,10}(?!\w)"
)
PHONES_BY_LABEL = frozenset(
    pattern
    for kind, pattern in (*LABELLED_PATTERNS, *STRICT_LABELLED_PATTERNS)
    if kind == "PHONE" and pattern.pattern.startswith(_PHONE_LABEL)
)
BIRTH_LABEL = _at_end(_BIRTH_LABEL, _BIRTH_LINK)
# What may stand right before a number that it names; for numbers that are written in another way than above.
LABELS: tuple[tuple[Kind, re.Pattern[str]], ...] = (
    ("NID", _at_end(_NID_LABEL_EN.replace(r"(?= ?(?:no|number|[:#]|\d))", ""), LINK_EN)),
    ("NID", _at_end(_NID_LABEL_AR, LINK_AR)),
    ("RESIDENT_CARD", _at_end(_CARD_LABEL_EN, LINK_EN)),
    ("RESIDENT_CARD", _at_end(_CARD_LABEL_AR, LINK_AR)),
    ("PASSPORT", _at_end(_PASSPORT_LABEL, _EITHER_LINK)),
    ("ACCOUNT", _at_end(_ACCOUNT_LABEL_EN, LINK_EN)),
    ("ACCOUNT", _at_end(_ACCOUNT_LABEL_AR, LINK_AR)),
    ("CR", _at_end(_CR_LABEL_EN, LINK_EN)),
    ("CR", _at_end(_CR_LABEL_AR, LINK_AR)),
    ("CARD", _at_end(_CREDIT_CARD_LABEL_EN, LINK_EN)),
    ("CARD", _at_end(_CREDIT_CARD_LABEL_AR, LINK_AR)),
    ("PHONE", _at_end(_PHONE_LABEL, _EITHER_LINK)),
    ("PHONE", _at_end(_REACHED_AT, r"[ :]{1,3}")),
    ("SSN", _at_end(_SSN_LABEL, LINK_EN)),
    ("DRIVING_LICENCE", _at_end(_LICENCE_LABEL, _EITHER_LINK)),
)
# In small letters: a text without any of them holds no such label. Kinds that are not here have labels too short for
# it.
SIGNS_OF_LABELS: dict[Kind, tuple[str, ...]] = {
    "RESIDENT_CARD": ("resident", "residence", "residency", "iqama", "مقيم", "قامة"),
    "PASSPORT": ("passport", "جواز"),
    "ACCOUNT": ("account", "acct", "a/c", "حساب"),
    "CARD": (" card", "بطاقة"),
    "SSN": ("ssn", "social security"),
    "DRIVING_LICENCE": ("driv", "رخصة"),
    "PO_BOX": ("zip", "box", "post", "بريد", "ص.", "ص ."),
    "DATE_OF_BIRTH": ("born", "birth", "dob", "yob", "d.o", "do.b", "ميلاد", "مواليد", "ولد", "مولود"),
    "PLATE": SIGNS_OF_PLATES,
    "ADDRESS": ("way", "street", "lane", "block", "سكة", "شارع", "مجمع"),
}
