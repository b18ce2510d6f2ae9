"""Define patterns of identifiers with a fixed form, fragments shared by patterns, and checks of values."""

import importlib
import re
from functools import cache

import phonenumbers
from stdnum import luhn
from stdnum.iso7064 import mod_97_10

# --- fragments --------------------------------------------------------------------------------------------------------

DIGITS_OF_A_NATIONAL_ID = 8
NOT_IN_WORD = r"(?<![\w/])"
END = r"(?![\w/])(?![.,]\d)(?!-\d)"
NOT_AN_AMOUNT = r"(?<!\bOMR )(?<!\bOMR)(?<!\bRO )(?<!\d[.,:-])"
MONTH = (
    r"(?:January|February|March|April|May|June|July|August|September|October|November|December|"
    r"Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|"
    r"يناير|فبراير|مارس|أبريل|ابريل|إبريل|مايو|يونيو|يوليو|أغسطس|اغسطس|سبتمبر|أكتوبر|اكتوبر|نوفمبر|ديسمبر|"
    r"كانون (?:الثاني|الأول)|شباط|[آا]ذار|نيسان|[أا]يار|حزيران|تموز|[آا]ب|[أا]يلول|تشرين (?:الأول|الثاني))"
)
DATE = (
    rf"(?:\d{{1,2}}(?:st|nd|rd|th)?[ -](?:of )?{MONTH}[ ,-]*(?:\d{{4}}|['’]\d\d)|{MONTH} \d{{1,2}}(?:st"
    rf"|nd|rd|th)?,? \d{{4}}"
    r"|\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](?:\d{4}|\d{2}))"
)
_ORDINALS = (
    r"(?:(?:twenty|thirty)[ -])?(?:first|second|third|fourth|fifth|sixth|seventh|eighth|ninth)|tenth|eleventh|twelfth|"
    r"(?:thir|four|fif|six|seven|eigh|nine)teenth|twentieth|thirtieth|(?:ال)?(?:[أا]ول|ثاني|ثالث|رابع"
    r"|خامس|سادس|سابع|ثامن|"
    r"تاسع|عاشر|حادي|واحد|عشرون|عشرين|ثلاثون|ثلاثين)(?: (?:عشر|و(?:ال)?(?:عشرين|عشرون|ثلاثين|ثلاثون)))?"
)
_DAY = rf"(?:\d{{1,2}}(?:st|nd|rd|th)?(?!\d)|{_ORDINALS})"
_SEPARATOR = r"[\s,./-]{0,3}"
_YEAR = r"(?:\d{4}|['’]?\d\d(?!\d))"
DATE_OF_A_PERSON = (
    rf"(?:(?:the )?{_DAY}(?: day)?{_SEPARATOR}(?:of |من )?(?:شهر )?{MONTH}(?![^\W\d])\.?(?:{_SEPARATOR}(?:in "
    rf"|of |the year |سنة |عام |من )*{_YEAR})?"
    rf"|{MONTH}{_SEPARATOR}['’]\d\d|{MONTH}\.?{_SEPARATOR}(?:the )?{_DAY}(?:{_SEPARATOR}(?:in )?{_YEAR})?|(?:19"
    rf"|20)\d\d{_SEPARATOR}{MONTH}{_SEPARATOR}\d{{1,2}}"
    r"|\d{1,2}\s?[./ -]\s?(?:\d{1,2}|I{1,3}|IV|VI{0,3}|IX|XI{0,2})\s?[./ -]\s?(?:(?:19|20)\d\d|\d\d)"
    r"|(?:19|20)\d\d[01]\d[0-3]\d)"
)
"""Pattern of a date in any usual form, also without its year, for places where a label announces one."""
HIJRI_MONTH = (
    r"(?:Muharram|Safar|Rabi['’]? ?(?:al-?|ul-? ?)?(?:-?(?:Awwal|Thani|Akh[ai]r|II?))|Juma?da(?: |"
    r"-)(?:al-? ?|ul-? ?)?(?:Awwal|Ula|Ul[aā]|Thani|Akh[ai]ra?h?|II?)|"
    r"Rajab|Sha['’]?ban|Ramad[ah]+n|Shawwal|Dh[ui](?:'?l| ?al)?[ -]?(?:al-)?(?:Qi?['’]?d[ae]h?|Hijj?ah?)|"
    r"محرم|صفر|ربيع (?:ال)?(?:أول|اول|آخر|اخر|ثاني)|جماد[ىيا] (?:ال)?(?:أولى|اولى|آخرة|اخرة|ثانية)|رجب|شعبان|رمضان|"
    r"شوال|ذ[ويا] (?:ال)?(?:قعدة|حجة))"
)
HIJRI_DATE = (
    rf"(?:\d{{1,2}}(?:st|nd|rd|th)?[ -](?:of |من |شهر )?{HIJRI_MONTH},?[ -](?:سنة |عام )?1[34]\d\d"
    rf"|{HIJRI_MONTH}(?: \d{{1,2}})?,? (?:سنة |عام )?1[34]\d\d)"
)
# Text allowed between a label and its value: "no.", "number is", ":", "of my son is", "رقم", "هو", "رقمها".
LINK = (
    r"(?:\s*(?:\((?:[A-Za-z./ -]{1,16}|[ء-ي ]{1,16})\)|[:#=(\[{\"'«“*_|>,،/\\–—-]"
    r"|\b(?:no|nr|num|number|is|was|are|card|reads?|being|on|in|the|falls|fell|with|as|from|by|under"
    r"|details|changed|given|issued)\b\.?"
    r"|\b(?:of|for|to|on|from|in|you|he|she|I)\b[^\d.;\n]{0,30}?(?:\b(?:is|was|on)\b|:)"
    r"|(?:[ء-ي]{2,12} ){1,2}(?=[وب]?(?:ال)?رقم|هو |هي )|(?:ال)?خاص[ةه]? ب[ء-ي]+|ل[ء-ي]{3,12}(?= )"
    r"|ال[ء-ي]{3,12}(?= )|رقم(?:ه|ها|ي|نا)?|ذات الرقم|ذو الرقم|الرقم|هو|هي|وهو|وهي|كان|في|بتاريخ|يوم|تحمل)){0,8}\s*"
)
"""Pattern of what may stand between a label and its value."""
EXTENSION = r"(?: ?(?:x|ext\.? ?)\d{1,5})?"
PHONE_VALUE = r"(?:\(?(?:\+|00) ?\d{1,3}\)?[ .-]?(?:\(0\) ?)?)?(?:\(\d{1,5}\)[ .-]?\d|\d)(?:[ .-]?\d){4,11}" + EXTENSION
_UNITS = (
    r"kgs?|kilos?|kilogram\w*|tonn?es?|tons?|lbs|dwt|grt|grams?|b?hp|horsepower|kw|mw|kwh|mwh|cc|mm|cm|km|m[23²³]|"
    r"met(?:re|er)s?|feet|ft|inch(?:es)?|lit(?:re|er)s?|gallons?|barrels?|bbls?|teus?|miles|knots|[kmg]?hz|"
    r"(?:kilo|mega|giga)?hertz|volts?|kv|amps?|watts?|bars?|degrees?|rials?|riyals?|dirhams?|dollars?|euros?|pounds?|"
    r"omr|aed|usd|baisa|per ?cent|bytes|[kmg]b|كجم|كغم?|كيلو\w*|طن\w*|كم|متر\w*|أمتار|لتر\w*|برميل\w*|حصان\w*|"
    r"ريال\w*|درهم\w*|دينار\w*|دولار\w*|هرتز|مي[جغ]اهرتز"
)
UNIT = rf"(?:[%°]|[$€£](?!\s?\d)|(?i:{_UNITS})(?!\w))"
"""Pattern of a unit after a number."""
_COUNTED = (
    r"passengers?|persons?|people|crew|hours?|hrs?|days?|weeks?|months?|years?|points?|pages?|copies"
    r"|units|pieces|items|"
    r"cases|shares|راكب\w*|ركاب|شخص\w*|ساعة|ساعات|يوم\w*|شهر\w*|سنة|سنوات|قطعة|نسخة"
)
NOT_A_QUANTITY = rf"(?!\s?(?:{UNIT}|(?i:{_COUNTED})(?!\w)))"
"""Lookahead that rejects a number that counts or measures something."""


# --- checks -----------------------------------------------------------------------------------------------------------

# Omani numbering plan: mobile 7[1-9], 9[1-9]; fixed 2[1-6]; toll-free 800.
_OMANI = re.compile(r"7[1-9]\d{6}|9[1-9]\d{6}|2[1-6]\d{6}|800\d{5}")
_YEARS = re.compile(r"((?:1[5-9]|20)\d\d)[ -]{1,3}((?:1[5-9]|20)\d\d)")
_LONGEST_PERIOD = 250
_YEARS_OR_DATE = re.compile(
    r"(?:19|20)\d\d[ .-][01]?\d[ .-][0-3]?\d|[0-3]?\d[ .-][01]?\d[ .-](?:19|20)\d\d"
    r"|1[34]\d\d[.-][01]?\d[.-][0-3]?\d|[0-3]?\d[.-][01]?\d[.-]1[34]\d\d"
)
_AMOUNT = re.compile(r"\d{1,3}(?: \d{3})+")  # thousands are in groups of three only
_EXTENSION_MARK = re.compile("x|ext")


def count_of_digits(value: str) -> int:
    return sum(character.isdigit() for character in value)


def is_date_or_years(value: str) -> bool:
    """Return whether a value is a range of years or a date: `1872-1936`, `2024-03-09`, `9 3 2024`, Hijri
    `12-7-1445`."""
    years = _YEARS.fullmatch(value)
    is_period = years is not None and abs(int(years[2]) - int(years[1])) <= _LONGEST_PERIOD
    return is_period or _YEARS_OR_DATE.fullmatch(value) is not None


def is_no_date(value: str) -> bool:
    return not is_date_or_years(value)


def has_iban_check_digits(value: str) -> bool:
    """Verify an IBAN's check digits (ISO 7064 MOD 97-10, ISO 13616)."""
    plain = _without_separators(value).upper()
    return bool(mod_97_10.is_valid(plain[4:] + plain[:4]))


def has_card_check_digit(value: str) -> bool:
    """Verify a card number's check digit (Luhn, ISO/IEC 7812-1)."""
    return bool(luhn.is_valid(_without_separators(value)))


def is_omani_phone(value: str) -> bool:
    plain = _without_separators(value)
    try:
        return _OMANI.fullmatch(plain) is not None or phonenumbers.is_valid_number(phonenumbers.parse(plain, "OM"))
    except phonenumbers.NumberParseException:  # a country prefix without a number
        return False


def is_grouped_phone(value: str) -> bool:
    """Return whether a value has eight to thirteen digits and is neither a date nor an amount."""
    digits = count_of_digits(_EXTENSION_MARK.split(value)[0])
    return 8 <= digits <= 13 and _AMOUNT.fullmatch(value) is None and not is_date_or_years(value)


def _without_separators(value: str) -> str:
    return re.sub("[ -]", "", value)


# --- forms ------------------------------------------------------------------------------------------------------------

IBAN = re.compile(
    rf"{NOT_IN_WORD}[A-Z]{{2}}\d{{2}}(?:[A-Z0-9]{{10,30}}|(?:[ -][A-Z0-9]{{4}}){{2,7}}(?:[ -][A-Z0-9]{{1,3}})?)(?!\w)",
    re.IGNORECASE,
)
CARD_NUMBER = re.compile(rf"{NOT_IN_WORD}(?<!\d[ -])(?:\d{{12,19}}|\d{{4}}(?:[ -]\d{{3,6}}){{2,4}})(?![ -]?\d)(?!\w)")
_VERSION = r"v?\d+(?:\.\d+){0,2}(?![\w-]|\.\w)"  # "checkout@v3", "50*8@0.00"
EMAIL = re.compile(rf"(?<![\w.+%'-])[\w.+%'-]*\w@(?!{_VERSION})\w[\w-]*(?:\.\w[\w-]*)+")
PREFIXED_PHONE = re.compile(r"(?<![\w+])\(?(?:\+|00) ?\(?\d{1,3}\)?(?:[ -]?\(?\d\)?){6,12}(?!\w)")
ZIP_PLUS_FOUR = re.compile(r"(?<![\w.,/-])(?<!\d )\d{5}-\d{4}(?![\w-])(?![.,/]\d)")
GROUPED_PHONE = re.compile(
    r"(?<![\w+.,/-])(?<!\d )(?!(?:19|20)\d\d-\d\d-\d\d)(?:\(\d{1,5}\)[ .-]?|\d{1,5}[ .-])(?:\(0\))?"
    rf"\d{{2,4}}(?:[ .-]\d{{2,4}}){{0,3}}{EXTENSION}(?!\w)(?![.,/:-]\d)"
)
PHONE_BEFORE_ITS_LABEL = re.compile(
    rf"(?<![\w+./-])(?P<value>{PHONE_VALUE})(?= ?[-,]? ?\(?(?i:office|fax|mobile|home|work|cell|tel)\b)"
)
SSN = re.compile(r"(?<![\w-])(?!000|666)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])")
IP_V4 = re.compile(r"(?<![\w.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\w.]*\d)")
IP_V6 = re.compile(
    r"(?<![\w:.])(?=(?::{0,2}[0-9A-Fa-f]){5})(?:(?:[0-9A-Fa-f]{1,4}:){7}[0-9A-Fa-f]{1,4}"
    r"|(?:[0-9A-Fa-f]{1,4}:){1,6}(?::[0-9A-Fa-f]{1,4}){1,6})(?![\w:])"
)
URL = re.compile(r"(?i)(?:https?://|www\.)[^\s<>\"'|]*[^\s<>\"'|.,;:!?)]")
_TIME = r"(?:[ T]\d{1,2}:\d{2}(?::\d{2})?)?"
ANY_DATE = re.compile(rf"(?<![\w/.-])(?:{DATE}{_TIME}|\d{{1,2}} {MONTH}|(?:19|20)\d\d)(?![\w/-]|\.\d)", re.IGNORECASE)
AGE = re.compile(
    r"(?i)(?<![\w.,/-])(?P<before>1?\d?\d)(?=(?:-| )?(?:years?|yrs?|months?)(?:-| )(?:old|of age)|[ -]?y/?o\b)"
    r"|\b(?:aged|age of|age:?|turn(?:ed|s|ing)?|when (?:he|she|they|i|we) (?:was|were)) "
    r"(?P<after>1?\d?\d)(?![\w/-]|[.,]\d)"
)
LOCAL_PHONE = re.compile(rf"{NOT_IN_WORD}(?<!\d[.,: -])[2789]\d{{3}}[ -]?\d{{4}}{END}")
PHONE_AFTER_ITS_FIRST_DIGIT = re.compile(rf"(?<![\w.,/:-])(?<!\d )[79] \d{{7}}{END}")
PASSPORT_SHAPE = re.compile(rf"{NOT_IN_WORD}[A-Z]{{1,2}}\d{{7,9}}(?!\w)")

# Stricter patterns: text that only resembles an identifier, or that only a person reads as one.
_GAP = r"(?:[ \t\r]{0,3}|[ \t\r]*\n[ \t\r>|]*)"
_BREAK = r"[ \t\r]*\n[ \t\r>|]*"
_LOCAL_PART = rf"(?<![\w.+%'-])(?:[\w.+%'-]*\w[-_=]{_BREAK})?[\w.+%'-]*\w"
_GAP_BEHIND = r"(?:[ \t\r]{0,3}|(?:[ \t\r>|]*\n){1,3}[ \t\r>|]*)"
_BRACKETED_AT = r"(?:\s{0,2}[\[({<] ?(?:at|@) ?[\])}>]\s{0,2}|[\[({<]a[\])}>])"
# Text after "@" in program code and comments: decorators, annotations, tags, rules of style sheets.
_OF_PROGRAMS = (
    r"(?:param|returns?|throws?|raises|see|since|version|author|deprecated|override|property|staticmethod|classmethod|"
    r"abstractmethod|dataclass|functools|pytest|app|router|media|import|charset|font|page|keyframes|supports|include|"
    r"mixin|extend|use|autowired|test|before|after|bean|entity|table|column|inject|component|service|controller|type|"
    r"module|suppresswarnings|nullable|nonnull|notnull|wraps|lru_cache|cache|contextmanager|todo|id|name|class|value|"
    r"href|src|style|title|lang|rel|data|interface|objc|end|implementation)(?![^\W_])"
)
_AT = rf"(?:{_GAP}(?!@(?:{_OF_PROGRAMS}|[\w.]{{1,80}}\())@{{1,3}}{_GAP_BEHIND}|{_BRACKETED_AT})"
_DOT = r"(?:\.(?!\s)|\s{0,2}[\[({<] ?(?:dot|\.) ?[\])}>]\s{0,2})"
_LABEL = r"\w[\w-]*"
# A host that is split by one line end, before its domain. Text after a complete address is the next sentence.
_CUT_HOST = (
    rf"{_LABEL}(?:\.{_BREAK}(?-i:[a-z])[\w-]*|{_BREAK}\.{_LABEL}|{_BREAK}(?-i:[a-z])[\w-]*(?=\.\w)\.\w[\w-]*)"
    rf"(?:\.{_LABEL})*"
)
_WHOLE_HOST = rf"{_LABEL}(?:{_DOT}{_LABEL})*{_DOT}[^\W\d_]{{2,}}"
_SPACED_HOST = rf"{_LABEL}(?: ?\. ?{_LABEL})* ?\. ?[^\W\d_]{{2,}}"
SEPARATED_EMAIL = re.compile(rf"(?i){_LOCAL_PART}(?:{_AT}(?:{_CUT_HOST}|{_WHOLE_HOST})|(?:@| @ ){_SPACED_HOST})")
_SAID_OF_PAGES = (
    r"(?:\w+(?:ed|able|ible|ing|ly)|found|online|look(?:s)?|is|are|was|were|be|it|them|this|that|here"
    r"|information|details?|"
    r"guidance|data|site|website|page|pages|web|report|reports|list|copy|form|forms|see|visit|view"
    r"|live|set|read|out|and|"
    r"or|again|service|services|document|documents|statistics|tool|register|policy|strategy|plan|library|link|us|"
    r"arrive|meet|met|work|works|office|staff|held|kept|put|seen|shown|made|given|begun|sold|built|team|not|also) at "
)
BRACKETED_EMAIL = re.compile(
    rf"(?i){_LOCAL_PART}(?:\s{{0,2}}[\[({{<] ?(?:at|@) ?[\])}}>]\s{{0,2}}(?=[\w.-]*[^\W\d_])\w[\w-]*(?:{_DOT}\w[\w-]*)*"
    rf"|[\[({{<]a[\])}}>](?:\w[\w-]*{_DOT})+[^\W\d_]{{2,}})"
    r"|(?<![\w.+-])[\w.+-]*\w at \w[\w-]*(?: dot \w[\w-]*)+"
    r"|(?<![\w.+-])[\w.+]*\w[-_]at[-_]\w+(?:[-_]\w+){0,3}?(?:[-_]dot[-_]\w+)+"
    # Without brackets: phrases that are not about a page ("available at harbour.example").
    rf"|(?<![\w.+-])(?!{_SAID_OF_PAGES})(?=[\w.+-]*[^\W\d_])[\w.+-]*\w at (?!www\.)(?:\w[\w-]*\.)+"
    r"[^\W\d_]{2,}(?![\w/@])"
)
AT_IN_WORDS = (
    "-dot-", "_dot_", "(a)", "[a]", "{a}", "<a>", "[at", "(at", "{at", "<at", "[ at", "( at", "{ at", "[@", "(@",
    "{@", "<@", "[ @", "( @",
)  # fmt: skip
"""Lower-case substrings, one of which every e-mail address with "at" or "dot" in brackets contains."""
AT_A_HOST = re.compile(r" at \w[\w-]*(?: dot |\.)")
"""Pattern of the lower-case " at " in an e-mail address without brackets."""
STRICT_EMAIL = re.compile(
    rf"(?:(?<![\w.+%'-])[\w.+%'-]*\w|\"[^\"\n@]{{1,64}}\")@{{1,3}}(?!{_VERSION})\[?\w(?:[\w.-]*\w)?"
)
# Truncated by an export: text before "@" and nothing after it. It contains a letter: "5 @ 2.500" is a price.
CLIPPED_EMAIL = re.compile(
    r"(?<![\w.+%'@/$-])(?=[\w.+%'-]{0,63}[^\W\d_])[\w.+%'-]{1,63}\w@(?:\.{1,3}(?!\w)"
    r"|…)?(?![\w@.\[({<…]|\s?[\d$€£]|\s?OMR)"
)
LETTER_BY_LETTER_EMAIL = re.compile(r"(?<!\w)(?:[\w.+-] ){2,40}@(?: [\w-]){2,40}(?: \.(?: [\w-]){1,20}(?!\w)){1,4}")
# "@" as OCR misreads it.
MISREAD_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,63}\w ?[©®] ?[\w-]{1,63}(?:\.[\w-]{1,63}){0,3}\.[^\W\d_]{2,}(?!\w)")
SIGNS_MISREAD = ("©", "®")
_OF_NOBODY = (
    r"(?:all|everyone|everybody|every1|here|channel|room|group|online|team|members|admins?|mods?|moderators?|followers|"
    r"highlight|anyone|staff|managers|nobody|someone)(?!\w)"
)
# A person's handle in social media, also in the address of a page. XPath attributes follow "[" or "/".
HANDLE = re.compile(
    rf"(?i)(?<![\w.@/\\=\[{{$&*%`'\"-])@(?!{_OF_PROGRAMS}|{_OF_NOBODY})[a-z_]\w{{2,29}}(?:\.\w{{1,29}})?(?![\w(@/]|\.\w)"
    r"|(?:(?<=\.[a-z]{2}/)|(?<=\.[a-z]{3}/)|(?<=\.[a-z]{4}/)|(?<=\.example/))@\w[\w.-]{1,39}\w"
)
PROFILE = re.compile(
    r"(?i)(?<![\w-])(?:(?:t|telegram|wa|m|signal|fb)\.me|(?:instagram|facebook|fb|twitter|x|tiktok"
    r"|threads|github|gitlab|vk|"
    r"pinterest|snapchat|linkedin|youtube|reddit|medium|twitch|soundcloud)\.(?:com|net|tv))/(?:add/"
    r"|in/|u/|user/|c/|people/)?@?"
    r"(?!(?:share|sharer|groups?|pages?|watch|hashtag|intent|p|reels?|status|explore|about|help|search"
    r"|joinchat|events|jobs|company|"
    r"school|marketplace|playlist|results|orgs|topics|settings|features|privacy|policies|login|home|feed|posts?|"
    r"channel|shorts|live|hc|business|ads|embed)(?![\w.-]))(?P<value>[\w.+-]{2,60}\w)(?![\w/]*\.html?)"
)
SIGNS_OF_PROFILES = (".me/", ".com/", ".net/", ".tv/")
# "#SalmaAlHarthi", "#HamoodBinRashid": a person's name by the words between its parts.
HASHTAG = re.compile(
    r"(?<![\w&])#(?P<value>(?:[A-Z][a-z]+){1,3}(?:Al|Bin|Bint|Ibn|Abu|Ben|El)(?:[A-Z][a-z]+){1,3})(?!\w)"
)
STRICT_IBAN = re.compile(r"(?i)(?<!\w)[A-Z]{2} ?\d{2}(?:[ -]?\d){10,}")


# --- masked cards -----------------------------------------------------------------------------------------------------

_MASK = r"[*•●×xX#]"
_CARD_LABEL = (
    r"(?:(?:credit|debit|bank|payment) card|\bcard(?: no\.?| number)?(?: is)?|\bvisa(?: card)?|master ?card|"
    r"\bamex|american express"
    r"|(?:ال)?بطاقة(?: (?:ال)?(?:ائتمان(?:ية)?|بنكية|مصرفية|خصم|فيزا))?)"
)
MASKED_BY_LABEL = re.compile(
    rf"(?i){_CARD_LABEL}(?:\s*(?:[:#(]|\b(?:no|number)\b\.?|رقم(?:ها)?))*\s*"
    rf"(?P<value>(?:\d[\d .-]{{0,7}})?(?:{_MASK}[ .-]{{0,2}}){{2,15}}\d{{3,4}})(?!\w)"
)
# Groups as printed on cards, with most digits masked. Nothing else has this form.
MASKED = re.compile(
    rf"(?<![\w*•●×#])(?:\d{{4}}|{_MASK}{{4}})[ .-]{{0,2}}(?:\d\d{_MASK}{{2}}|"
    rf"{_MASK}{{4}})[ .-]{{0,2}}{_MASK}{{4}}[ .-]{{0,2}}\d{{4}}(?!\w)"
)
LAST_DIGITS = re.compile(
    r"(?i)(?:\bcards?(?: no\.?| number)?|\bvisa|master ?card|\bamex)(?: \w+)?,? (?:ending|ends|ended|"
    r"that ends|which ends)"
    r"(?: (?:in|with|on))? ?(?:the digits |number )?(?P<value>(?!(?:19|20)\d\d(?!\w))\d{3,4})(?!\w)(?![.,/-]\d)"
    rf"{NOT_A_QUANTITY}"
    r"|(?:ال)?بطاقة(?: \w+){0,2} (?:ال)?(?:منتهية|تنتهي) (?:ب|بالأرقام|برقم|بـ)? ?(?P<arabic>\d{3,4})(?!\w)"
)
SIGNS_OF_A_MASK = ("**", "••", "●●", "××", "xx", "##", "* *", "• •")
SIGNS_OF_LAST_DIGITS = (" ending", " ends", " ended", "منتهية", "تنتهي")


_CARD_WORD = r"(?:\bcards?\b|\bvisa\b|master ?card|\bamex\b|\bcv[vcn]2?\b|\d{4}[ -]?\d{4}|بطاق[ةت]\w*|البطاقة)"
_EXPIRY_WORD = (
    r"(?:\bexp(?:ir(?:y|es|ing|ation|ed))?\b\.?|\bvalid\b|\bgood\b|\bthru\b|\buntil\b|(?:ال)?انتهاء|تنتهي|صالحة)"
)
_EXPIRY = r"(?<![\d/.-])(?:0?[1-9]|1[0-2])\s?[/.-]\s?(?:20)?[2-4]\d(?![\w/-])(?![.,]\d)"
SIGNS_OF_EXPIRY = ("exp", "valid", "good", "thru", "until", "cv", "/2", "انتهاء", "تنتهي", "صالحة")
EXPIRY = re.compile(
    rf"(?i){_CARD_WORD}[^\d]{{0,25}}{_EXPIRY_WORD}[^\n\d]{{0,16}}(?P<value>{_EXPIRY})"
    rf"|{_EXPIRY_WORD}[^\n\d]{{0,16}}(?P<before>{_EXPIRY})(?=[^\n\d]{{0,16}}\b(?:cv[vcn]2?|security code)\b)"
    rf"|\d{{4}}[ ,;|/-]{{1,4}}(?P<bare>{_EXPIRY})(?=[ ,;|/-]{{1,4}}(?:cv[vcn]2?\W{{0,2}})?\d{{3,4}}\b)"
)
CODE_AFTER_EXPIRY = re.compile(rf"\d{{4}}[ ,;|/-]{{1,4}}{_EXPIRY}[ ,;|/-]{{1,4}}(?P<value>\d{{3,4}})(?!\w)(?![.,]\d)")


# --- credentials ------------------------------------------------------------------------------------------------------

_SERVICES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("aws", "AWSKeyDetector", ("a3t", "abia", "acca", "akia", "asia", "aws")),
    ("azure_storage_key", "AzureStorageKeyDetector", ("accountkey=",)),
    ("github_token", "GitHubTokenDetector", ("ghp_", "gho_", "ghu_", "ghs_", "ghr_")),
    ("gitlab_token", "GitLabTokenDetector", ("glpat-", "gldt-", "glft-", "glsoat-", "glrt-", "gr1348941", "glcbt-")),
    ("mailchimp", "MailchimpDetector", ("-us",)),
    ("openai", "OpenAIDetector", ("t3blbkfj",)),
    ("pypi_token", "PypiTokenDetector", ("pypi-",)),
    ("sendgrid", "SendGridDetector", ("sg.",)),
    ("slack", "SlackDetector", ("xox", "hooks.slack.com")),
    ("square_oauth", "SquareOAuthDetector", ("sq0csp-",)),
    ("stripe", "StripeDetector", ("k_live_",)),
    ("telegram_token", "TelegramBotTokenDetector", (":aa",)),
    ("twilio", "TwilioKeyDetector", ("ac", "sk")),
)
"""Modules and classes of detect-secrets, each with lower-case substrings, one of which every key of the service
contains."""


@cache
def of_services() -> tuple[tuple[re.Pattern[str], tuple[str, ...]], ...]:
    """Return the patterns of services' keys, each with lower-case substrings, one of which every key contains.
    Imports detect-secrets."""
    return tuple(
        (pattern, signs)
        for module, name, signs in _SERVICES
        for pattern in getattr(importlib.import_module(f"detect_secrets.plugins.{module}"), name).denylist
    )


JSON_WEB_TOKEN = re.compile(r"\beyJ[\w=-]{8,}\.[\w=-]{8,}(?:\.[\w=-]*)?")
PRIVATE_KEY = re.compile(
    r"-{3,5} ?BEGIN [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)? ?-{3,5}"
    r"(?:[^-]{0,8000}-{3,5} ?END [A-Z0-9 ]{0,30}PRIVATE KEY(?: BLOCK)? ?-{3,5}|[A-Za-z0-9+/=\s]{0,8000})"
)
CODE_TO_ENTER = re.compile(
    r"(?i)\b(?:enter|use|type|input)(?: code)? (?P<value>\d{4,8}) (?:to|as|for"
    r"|when)\b[^.\n]{0,30}?(?:verif|confirm|log|sign|auth|activ)"
)
IN_A_QUERY = re.compile(
    r"(?i)[?&;#](?:[\w-]*(?:token|key|sig|signature|auth|secret|passw(?:or)?d|session(?:[_-]?id)?|jwt"
    r"|otp|nonce|ticket)|pwd|pass|sid|code|pin|state)="
    r"(?P<value>(?=[^\s&#]{0,200}\d)[^\s&#\"'<>]{4,}[^\s&#\"'<>.,;:!?)])"
    r"|/(?:reset|invite|invitation|verify|confirm|activate|activation|magic|login|auth|token"
    r"|unsubscribe|share|signup)[\w-]*/"
    r"(?P<path>(?=[\w.~-]*\d)(?=[\w.~-]*[A-Za-z])[\w.~-]{10,}\w)"
)
SIGNS_OF_QUERIES = (
    "=", "/reset", "/invit", "/verif", "/confirm", "/activat", "/magic", "/login", "/auth", "/token", "/unsub",
    "/share", "/signup",
)  # fmt: skip
IN_AN_ADDRESS = re.compile(r"://[^\s/:@{}]{1,100}:(?P<value>[^\s/@{}]{1,200})@")

_CREDENTIAL_LABEL = (
    r"\b(?:pass(?: ?(?:word|code|phrase)|(?= ?[:=]))|pwd|passwd|pin(?: code| number)?|(?:access"
    r"|security|login|door|alarm) code|"
    r"(?:api|secret|access|private|account|encryption|shared|licen[cs]e)[ _-]?key|"
    r"(?:access|auth|authentication|authorization|api|refresh|session|bearer)[ _-]?token|client[ _-]?secret)"
)
_ARABIC_LABEL = (
    r"(?:كلمة (?:ال)?(?:مرور|سر)|(?:ال)?رقم (?:ال)?سري|(?:ال)?رمز (?:ال)?(?:سري|دخول|مرور|تحقق)|"
    r"مفتاح (?:ال)?(?:وصول|دخول))"
)
_VALUE = r"[^\s\"'`,;<>«»]{3,199}[^\s\"'`,;<>«».?)\]:]"
BY_LABEL = re.compile(
    rf"(?i){_CREDENTIAL_LABEL}(?: (?:for|of|to) [^\n:=]{{1,40}}?)?[\"']?\s{{0,3}}"
    r"(?:[:=]{1,2}>?|\bis now\b|\bis\b|\bwas\b)"
    rf"\s{{0,3}}[\"'`]?(?P<value>{_VALUE})"
    rf"|{_ARABIC_LABEL}(?:[^\n:=]{{0,30}}?\s{{0,3}}[:=]|\s(?:هي|هو)\s)\s{{0,3}}[\"'`«]?(?P<arabic>{_VALUE})"
    rf"|{_ARABIC_LABEL}\s(?=\S{{0,30}}\d)(?P<bare>{_VALUE})"
)
SIGNS_OF_LABELS = (
    *("pass", "pwd", "pin", "code", "key", "token", "secret"),
    *("مرور", "كلمة السر", "كلمة سر", "سري", "رمز", "مفتاح"),
)


def looks_like_a_credential(value: str) -> bool:
    """Return whether a value behind a label is a credential rather than a word: it contains a digit, a symbol, or
    unusual capitals."""
    if any(map(str.isdigit, value)):
        return re.fullmatch(r"\d{1,2}-?(?:digits?|characters?|letters?)", value) is None
    has_sign = re.search(r"\w[^\w\s'’.-]\w|[!#$%&*+?@^_~]", value) is not None
    return has_sign or value not in (value.lower(), value.upper(), value.capitalize())
