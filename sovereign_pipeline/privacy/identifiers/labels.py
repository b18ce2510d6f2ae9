"""Define patterns of labelled identifiers in English and Arabic, mainly of Oman and the Gulf."""

import re

from stdnum import luhn

from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.privacy.identifiers.patterns import (
    DATE,
    END,
    HIJRI_DATE,
    LINK_AR,
    LINK_EN,
    MONTH,
    NOT_A_QUANTITY,
    PHONE_VALUE,
)

# --- vehicles and vessels ---------------------------------------------------------------------------------------------

_LATIN = r"[A-Z] ?[A-Z]?"
_ARABIC = r"[ء-ي](?: ?[ء-ي])?"
# Three letters are an emirate: "DXB-K-48211".
_LETTERS_FIRST = rf"(?:[A-Z]{{3}}[ /-]?)?{_LATIN}[ /-]{{0,2}}\d{{2,5}}|{_ARABIC}[ /-]{{0,2}}\d{{3,5}}"
# Capitals that are not letters of a plate, such as "4500 KG", unless the text names a number.
QUANTITY = r"\d{1,5}[ /-]{0,3}(?:KG|CC|MM|CM|KM|HP|KW|KV|DB|MB|GB|TV|AM|PM)(?!\w)|\d{1,3} ?[ALMTVW](?!\w)(?! ?\d)"
PLATE_VALUE = rf"(?:\d{{1,5}}[ /-]{{0,3}}(?:{_LATIN}|{_ARABIC})(?!\w)|{_LETTERS_FIRST})"
PLATE = re.compile(
    r"(?i:\b(?:number[ -])?plates?|\bvehicle|\bregistered as|\bcar(?= (?:plates?|no|number|reg)\b)|"
    r"(?:ال)?(?:مركب|سيار|لوح)(?:ة|ه|ت(?:ه|ها|ي|نا|هم))(?: (?:ال)?مركبة)?)"
    r"(?i:[ ,:(]*(?:(?P<numbered>no\.?|number|registration|reg\.?|رقم(?:ها)?|رقم اللوحة)|plates?|with|is|was|تحمل))*"
    r"[ ,:(]*(?:[A-Z][a-z]+ )?"
    rf"(?(numbered)|(?!{QUANTITY}))(?P<value>{PLATE_VALUE})(?!\w)"
)
SIGNS_OF_PLATES = ("plate", "vehicle", "registered as", "car ", "مركب", "سيار", "لوح")

IMO_NUMBER = re.compile(
    r"\bI\.?M\.?O\b\.?(?: (?:ship|vessel))?(?: ident\w*)?(?: (?:no\b\.?|number|"
    r"nr\b\.?))?(?: is)?[ :#]{0,3}(?P<value>\d{4} ?\d{3})(?!\w)(?![.,/-]\d)",
    re.IGNORECASE,
)
MMSI = re.compile(
    r"\bMMSI(?: (?:no\b\.?|number))?(?: is| was)?[ :#=]{0,3}(?P<value>\d(?:[ -]?\d){8})(?!\w)", re.IGNORECASE
)
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


def has_imo_check_digit(value: str) -> bool:
    """Return whether the seventh digit is the last digit of the sum of the first six, weighted 7 to 2."""
    digits = [int(digit) for digit in value if digit.isdigit()]
    return sum(weight * digit for weight, digit in zip(range(7, 1, -1), digits, strict=False)) % 10 == digits[6]


# --- labelled numbers, dates and addresses ----------------------------------------------------------------------------

# Try ungrouped digits first, so that a number in the next words is not included; then groups.
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
"""Lower-case substrings, one of which every phone label contains."""
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
    ("SSN", _labelled(_SSN_LABEL, LINK_EN, r"\d{3}[ -]?\d{2}[ -]?\d{4}(?!\w)")),
    (
        "DRIVING_LICENCE",
        _labelled(_LICENCE_LABEL, _EITHER_LINK, r"[A-Z]{0,5}\d[A-Z\d]{3,17}(?![\w-])|[A-Z]?\d+(?:[ -]\d+){1,4}(?!\w)"),
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
    ("DATE_OF_BIRTH", _labelled(_BIRTH_LABEL, _BIRTH_LINK, rf"(?:{HIJRI_DATE}|{DATE})(?!\d)")),
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

# For the stricter patterns: arithmetic signs, "and" or a currency do not end a labelled number.
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
# Labels directly before a number, for numbers in unusual forms.
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
# Lower-case substrings: a text without any of them contains no label of the kind. Labels of other kinds are too short
# for this.
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


# --- a month or a year of birth ---------------------------------------------------------------------------------------

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
    """Return whether the value behind a birth label contains a digit, so that it is a date, a month or a year."""
    return any(map(str.isdigit, value))


# --- national ids of the Gulf besides Oman's --------------------------------------------------------------------------

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
# A century digit, a date of birth, and five digits of which the last is a check digit.
_OF_AN_ID = r"(?<!\w)(?:ids?|identity|emirates|emirati|uae|cards?)(?!\w)|هوي[ةت]|بطاق[ةت]|إمارات|امارات"
EMIRATES_ID_BY_LABEL = re.compile(rf"(?i)(?:{_OF_AN_ID})[^\n.;!?]{{0,40}}?(?P<value>{EMIRATES_ID.pattern})")
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
"""Lower-case substrings, one of which every label of an id contains."""
_KUWAITI_WEIGHTS = (2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)


def has_length_of_an_id(value: str) -> bool:
    """Return whether the number of digits fits an id: 9 in Bahrain, 10 in Saudi Arabia, 11 in Qatar, 12 in Kuwait,
    15 in the Emirates (beginning with 784)."""
    digits = _digits(value)
    return len(digits) in (9, 10, 11, 12) or (len(digits) == 15 and digits.startswith("784"))


def has_emirates_check_digit(value: str) -> bool:
    return bool(luhn.is_valid(_digits(value)))


def has_kuwaiti_check_digit(value: str) -> bool:
    """Verify the check digit (modulus 11 over the first eleven digits) and that month and day of birth are possible."""
    digits = _digits(value)
    month, day = int(digits[3:5]), int(digits[5:7])
    weighted = sum(weight * int(digit) for weight, digit in zip(_KUWAITI_WEIGHTS, digits, strict=False))
    return 1 <= month <= 12 and 1 <= day <= 31 and 11 - weighted % 11 == int(digits[11])


def _digits(value: str) -> str:
    return "".join(filter(str.isdigit, value))
