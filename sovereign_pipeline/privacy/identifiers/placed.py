"""Identifiers whose label stands behind them, and what the labels of columns and of values behind them are.

What belongs here: such labels. What does not: labels before a value (`labels.py`), columns (`tables.py`).
"""

import re
from collections.abc import Iterator

from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.privacy.identifiers.fragments import DATE, HIJRI_DATE
from sovereign_pipeline.privacy.identifiers.labels import CR_VALUE
from sovereign_pipeline.privacy.identifiers.vehicles import PLATE_VALUE, QUANTITY
from sovereign_pipeline.privacy.spans import Span, value_key

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
"""Whether a label has a value of its own behind it, and so is none of the value before it."""
_LABEL_BEFORE = re.compile(
    r"(?i)(?:no\b\.?|number|phone|tel\.?|mobile|passport|card|account|رقم|هاتف)(?: is)?[ :#]{0,3}\Z"
)


def identifiers_before_their_label(text: str) -> Iterator[Span]:
    """Values such as "1045 7832 (civil number)"."""
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
    """Whether a text, in small letters, holds any label at all."""
    return any(sign in small for sign in _SIGNS)


def _span(text: str, start: int, end: int, kind: Kind) -> Span:
    return Span(start, end, kind, value_key(kind, text[start:end]))
