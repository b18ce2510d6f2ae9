"""National identity numbers of the Gulf besides Oman's: by their label, or by a form and check digits that are theirs.

What belongs here: the form, the label and the check of each. What does not: Oman's civil number (`labels.py`).
"""

import re

from stdnum import luhn

from sovereign_pipeline.privacy.identifiers.fragments import LINK_AR, LINK_EN

_SEPARATOR = r"[ ./_–-]{0,3}"
_ANY_ID_LABEL = (
    r"(?:\bemirates ids?\b|\bE\.?I\.?D\b\.?|\bQ\.?I\.?D\b\.?|\bC\.?P\.?R\b\.?|\bG\.?C\.?C\.? ids?\b"
    r"|\b(?:saudi|kuwaiti?|qatari?|bahraini?|emirati|uae|national|personal|civil)(?: national)? "
    r"(?:ids?|identity|card)\b|\b(?:personal|national|identity|civil) (?:no\b\.?|number)"
    r"|الرقم الشخصي|الرقم السكاني|رقم(?:ه|ها|ي)? (?:الشخصي|السكاني)|(?:ال)?بطاقة (?:ال)?(?:شخصية|سكانية|ذكية)"
    r"|بطاقت(?:ه|ها|ي) (?:الشخصية|السكانية)|الهوية(?: (?:الوطنية|الإماراتية|الاماراتية))?|(?:ال)?رقم (?:ال)?هوي[ةت]\w?"
    r"|الرقم المدني|البطاقة المدنية)"
)
# 784, the year of birth, seven digits, a check digit: no other number has this form.
EMIRATES_ID = re.compile(
    rf"(?<![\w.,/+-])784{_SEPARATOR}(?:19|20)\d\d{_SEPARATOR}\d{{7}}{_SEPARATOR}\d(?!\w)(?![-/]\d)"
)
# A century, a date of birth, five digits the last of which is computed.
_OF_AN_ID = r"(?<!\w)(?:ids?|identity|emirates|emirati|uae|cards?)(?!\w)|هوي[ةت]|بطاق[ةت]|إمارات|امارات"
EMIRATES_ID_BY_LABEL = re.compile(
    rf"(?i)(?:{_OF_AN_ID})[^\n.;!?]{{0,40}}?(?P<value>{EMIRATES_ID.pattern})",
)
KUWAITI_ID = re.compile(
    r"(?<![\w.,/+-])(?<!\d )[23][ -]?\d[ -]?\d[ -]?[01][ -]?\d[ -]?[0-3](?:[ -]?\d){6}(?!\w)(?![.,/-]\d)"
)
LABELLED_ID = re.compile(
    rf"{_ANY_ID_LABEL}[)\]\"]?(?:{LINK_EN}|{LINK_AR})(?P<value>\d(?:[ ./–-]{{0,3}}\d){{8,14}})(?!\w)(?![-/]\d)",
    re.IGNORECASE,
)
SIGNS = (
    " id", "(id", "eid", "e.i", "qid", "q.i", "cpr", "c.p", "identity", "national", "personal", "civil",
    "شخصي", "سكاني", "هوي", "بطاق", "مدني",
)  # fmt: skip
"""What every such label holds, in small letters."""
_KUWAITI_WEIGHTS = (2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


def has_length_of_an_id(value: str) -> bool:
    """Nine digits in Bahrain, ten in Saudi Arabia, eleven in Qatar, twelve in Kuwait, fifteen in the Emirates."""
    digits = _digits(value)
    return len(digits) in (9, 10, 11, 12) or (len(digits) == 15 and digits.startswith("784"))


def has_emirates_check_digit(value: str) -> bool:
    return bool(luhn.is_valid(_digits(value)))


def has_kuwaiti_check_digit(value: str) -> bool:
    """Modulus 11 over the first eleven digits, and a date of birth that there is."""
    digits = _digits(value)
    month, day = int(digits[3:5]), int(digits[5:7])
    weighted = sum(weight * int(digit) for weight, digit in zip(_KUWAITI_WEIGHTS, digits, strict=False))
    return 1 <= month <= 12 and 1 <= day <= 31 and 11 - weighted % 11 == int(digits[11])


def _digits(value: str) -> str:
    return "".join(filter(str.isdigit, value))
