"""What stands beside a number and says that it counts, measures or classifies something, and is nobody's.

What belongs here: units behind a number, and words before it such as "rooms" or "HS codes". What does not: dates,
amounts and lists by their own form (`checks.py`, `separated.py`).
"""

import re

from sovereign_pipeline.privacy.identifiers.fragments import UNIT
from sovereign_pipeline.privacy.identifiers.phones import has_cue
from sovereign_pipeline.privacy.spans import Span

_UNIT_BEHIND = re.compile(rf"(?:[.,]\d{{1,4}})?\s?{UNIT}")
# Other numbers of the same list, and what joins them.
_REST_OF_A_LIST = r"(?:[\s\d.,;:/&()#–-]|\b(?:and|or|to|nos?|numbers?|list|of)\b\.?|و|إلى|رقم|أرقام){0,80}\Z"
# Not offices, shops and desks: a phone may stand behind one of these.
_ONE = (
    r"rooms?|lockers?|classrooms?|chalets?|wards?|berths?|plots?|sections?|articles?|seats?|booths?|stalls?|gates?|"
    r"parcels?|wells?|bays?|cabins?|channels?|frequenc(?:y|ies)|flights?|pages?|annex(?:es)?|lots?|"
    r"(?:ال)?(?:غرفة|قاعة|قطعة|رصيف|تردد)"
)
_SEVERAL = (
    r"(?:(?:room|office|hall|locker|classroom|chalet|ward|flat|apartment|unit|villa|berth|plot|block|section|article|"
    r"seat|stand|booth|stall|shop|gate|parcel|well|bay|cabin|suite|desk|building|channel|flight|route|road|train|page|"
    r"item|lot|tender|pump|machine|valve|invoice|permit)(?:s| list| numbers| nos\b\.?)|frequencies|buses|"
    r"(?:ال)?(?:غرف|قاعات|مكاتب|قطع|أرصفة|مواد|صفحات|ترددات))"
)
_SEVERAL_BEFORE = re.compile(rf"(?i)(?<!\w){_SEVERAL}(?!\w){_REST_OF_A_LIST}")
_ONE_BEFORE = re.compile(rf"(?i)(?<!\w)(?:{_ONE})(?: (?:no\.?|numbers?|رقم))?:? ?\Z")
_MEASURED_BEFORE = re.compile(
    r"(?i)(?<!\w)(?:rates?|ind(?:ex|ices)|prices?|coefficients?|ratios?|levels?|frequenc(?:y|ies)|bands?|channels?|vhf|uhf|"
    r"tides?|readings?|سعر|أسعار|معدل|مؤشر|تردد|الترددات)(?!\w)[^\n.;!?\d]{0,30}" + _REST_OF_A_LIST
)
_CLASSIFIED_BEFORE = re.compile(
    r"(?i)(?<!\w)(?:(?:H\.?S\.?|harmoni[sz]ed(?: system)?|customs|commodity|CN|tariff) "
    r"(?:(?:sub)?headings?|codes?|items?|lines?|tariffs?)|tariffs?|(?:sub)?headings?|"
    r"(?:ال)?(?:بند|بنود|رمز|رموز) (?:ال)?(?:جمركي|جمركية|منسق)|النظام المنسق)(?!\w)" + _REST_OF_A_LIST
)
_HS_BEFORE = re.compile(r"(?<!\w)HS:? ?\Z")
_HS_FORM = re.compile(r"\d{4}([. -])\d\d\1\d\d(?:\1\d\d)?")
_DECIMAL = re.compile(r"\d{1,6}[.,]\d{2,6}")
_LONG_GROUP = re.compile(r"\d{6}")
_BACK = 120
"""Characters before a number that are looked at."""


def is_of_something_else(text: str, span: Span) -> bool:
    """Whether the words or the unit beside a number, which nothing names, say that it is no identifier."""
    value = text[span.start : span.end]
    if value[0] in "+(" or value.startswith("00"):
        return False
    if _UNIT_BEHIND.match(text, span.end):
        return True
    before = text[max(0, span.start - _BACK) : span.start]
    if _CLASSIFIED_BEFORE.search(before) or (_HS_FORM.fullmatch(value) and _HS_BEFORE.search(before)):
        return True
    if has_cue(text, span.start, span.end):
        return False
    if _HS_FORM.fullmatch(value) and "." in value:
        return True
    if _DECIMAL.fullmatch(value) and _MEASURED_BEFORE.search(before):
        return True
    if _LONG_GROUP.search(value):
        return False  # no room has such a number, and a phone may stand behind one
    return bool(_SEVERAL_BEFORE.search(before) or _ONE_BEFORE.search(before))
