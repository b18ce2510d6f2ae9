"""When a person was born, where the day is not told: a month and a year, or a year alone.

What belongs here: what such a date stands behind, and births that are nobody's in particular. What does not: whole
dates of birth (`labels.py`), and those in columns (`tables.py`).
"""

import re

from sovereign_pipeline.privacy.identifiers.fragments import MONTH

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
# Births of many, of anybody, and of what is no person.
_SEVERAL = (
    r"(?:children|infants|babies|newborns|persons|people|those|anyone|anybody|everyone|everybody|all|individuals|citizens|"
    r"nationals|residents|men|women|boys|girls|students|pupils|workers|employees|applicants|candidates|members|cohorts?|"
    r"generations?|animals?|calves|foals|camels|lambs|patients|adults|youths?|omanis|others|immigrants|"
    r"(?:any|each|every|no|a) (?:person|child|infant|baby|citizen|national|one|applicant|candidate|animal|calf|foal))"
)
_NO_PERSON = (
    r"(?:authority|ministry|company|firm|bank|organi[sz]ation|agency|council|committee|department|programme|program|project|"
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
    """Whether it is a month or a year, and not the words that say whose no birth is."""
    return any(map(str.isdigit, value))
