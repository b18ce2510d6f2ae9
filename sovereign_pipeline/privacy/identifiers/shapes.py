"""Identifiers that are told by their form alone.

What belongs here: one pattern for each form. What does not: checks of what a pattern matched (`checks.py`), values that
only a label tells (`labels.py`).
"""

import re

from sovereign_pipeline.privacy.identifiers.fragments import (
    DATE,
    END,
    EXTENSION,
    MONTH,
    NOT_IN_WORD,
    PHONE_VALUE,
)

IBAN = re.compile(
    rf"{NOT_IN_WORD}[A-Z]{{2}}\d{{2}}(?:[A-Z0-9]{{10,30}}|(?:[ -][A-Z0-9]{{4}}){{2,7}}(?:[ -][A-Z0-9]{{1,3}})?)(?!\w)",
    re.IGNORECASE,
)
CARD_NUMBER = re.compile(rf"{NOT_IN_WORD}(?<!\d[ -])(?:\d{{12,19}}|\d{{4}}(?:[ -]\d{{3,6}}){{2,4}})(?![ -]?\d)(?!\w)")
EMAIL = re.compile(r"(?<![\w.+%'-])[\w.+%'-]*\w@(?!\d+\.\d+(?:[^\d.]|\.(?!\d)|\Z))\w[\w-]*(?:\.\w[\w-]*)+")
PREFIXED_PHONE = re.compile(r"(?<![\w+])\(?(?:\+|00) ?\(?\d{1,3}\)?(?:[ -]?\(?\d\)?){6,12}(?!\w)")
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
    r"(?<![\w:.])(?:(?:[0-9A-Fa-f]{1,4}:){7}[0-9A-Fa-f]{1,4}|(?:[0-9A-Fa-f]{1,4}:){1,6}(?::[0-9A-Fa-f]{1,4}){1,6})(?![\w:])"
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

# The stricter reading: what only looks like one, or is written so that only a person reads it as one.
_GAP = r"(?:[ \t\r]{0,3}|[ \t\r]*\n[ \t\r>|]*)"
_BREAK = r"[ \t\r]*\n[ \t\r>|]*"
_LOCAL_PART = rf"(?<![\w.+%'-])(?:[\w.+%'-]*\w[-_=]{_BREAK})?[\w.+%'-]*\w"
_GAP_BEHIND = r"(?:[ \t\r]{0,3}|(?:[ \t\r>|]*\n){1,3}[ \t\r>|]*)"
_BRACKETED_AT = r"(?:\s{0,2}[\[({<] ?(?:at|@) ?[\])}>]\s{0,2}|[\[({<]a[\])}>])"
# What follows the sign in programs and their comments: decorators, annotations, tags, rules of style sheets.
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
# A host that a line's end cuts, once, and before its domain: what follows a whole address is the next sentence.
_CUT_HOST = (
    rf"{_LABEL}(?:\.{_BREAK}(?-i:[a-z])[\w-]*|{_BREAK}\.{_LABEL}|{_BREAK}(?-i:[a-z])[\w-]*(?=\.\w)\.\w[\w-]*)"
    rf"(?:\.{_LABEL})*"
)
_WHOLE_HOST = rf"{_LABEL}(?:{_DOT}{_LABEL})*{_DOT}[^\W\d_]{{2,}}"
_SPACED_HOST = rf"{_LABEL}(?: ?\. ?{_LABEL})* ?\. ?[^\W\d_]{{2,}}"
SEPARATED_EMAIL = re.compile(rf"(?i){_LOCAL_PART}(?:{_AT}(?:{_CUT_HOST}|{_WHOLE_HOST})|(?:@| @ ){_SPACED_HOST})")
_SAID_OF_PAGES = (
    r"(?:\w+(?:ed|able|ible|ing|ly)|found|online|look(?:s)?|is|are|was|were|be|it|them|this|that|here|information|details?|"
    r"guidance|data|site|website|page|pages|web|report|reports|list|copy|form|forms|see|visit|view|live|set|read|out|and|"
    r"or|again|service|services|document|documents|statistics|tool|register|policy|strategy|plan|library|link|us|"
    r"arrive|meet|met|work|works|office|staff|held|kept|put|seen|shown|made|given|begun|sold|built|team|not|also) at "
)
BRACKETED_EMAIL = re.compile(
    rf"(?i){_LOCAL_PART}(?:\s{{0,2}}[\[({{<] ?(?:at|@) ?[\])}}>]\s{{0,2}}(?=[\w.-]*[^\W\d_])\w[\w-]*(?:{_DOT}\w[\w-]*)*"
    rf"|[\[({{<]a[\])}}>](?:\w[\w-]*{_DOT})+[^\W\d_]{{2,}})"
    r"|(?<![\w.+-])[\w.+-]*\w at \w[\w-]*(?: dot \w[\w-]*)+"
    r"|(?<![\w.+-])[\w.+]*\w[-_]at[-_]\w+(?:[-_]\w+){0,3}?(?:[-_]dot[-_]\w+)+"
    # Without more signs: what is not said of a page ("available at harbour.example").
    rf"|(?<![\w.+-])(?!{_SAID_OF_PAGES})[\w.+-]*\w at (?!www\.)(?:\w[\w-]*\.)+[^\W\d_]{{2,}}(?![\w/@])"
)
AT_IN_WORDS = (
    "-dot-",
    "_dot_",
    "(a)",
    "[a]",
    "{a}",
    "<a>",
    "[at",
    "(at",
    "{at",
    "<at",
    "[ at",
    "( at",
    "{ at",
    "[@",
    "(@",
    "{@",
    "<@",
    "[ @",
    "( @",
)
"""Signs of such an address, in small letters."""
AT_A_HOST = re.compile(r" at \w[\w-]*(?: dot |\.)")
"""The sign of one without brackets, in small letters."""
STRICT_EMAIL = re.compile(r"(?:(?<![\w.+%'-])[\w.+%'-]*\w|\"[^\"\n@]{1,64}\")@{1,3}\[?\w(?:[\w.-]*\w)?")
# Cut by an export: what stands before the sign, and nothing behind it. With a letter: "5 @ 2.500" is a price.
CLIPPED_EMAIL = re.compile(
    r"(?<![\w.+%'@/$-])(?=[\w.+%'-]{0,63}[^\W\d_])[\w.+%'-]{1,63}\w@(?:\.{1,3}(?!\w)|…)?(?![\w@.\[({<…]|\s?[\d$€£]|\s?OMR)"
)
LETTER_BY_LETTER_EMAIL = re.compile(r"(?<!\w)(?:[\w.+-] ){2,40}@(?: [\w-]){2,40}(?: \.(?: [\w-]){1,20}(?!\w)){1,4}")
# The sign as a machine misreads it.
MISREAD_EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,63}\w ?[©®] ?[\w-]{1,63}(?:\.[\w-]{1,63}){0,3}\.[^\W\d_]{2,}(?!\w)")
SIGNS_MISREAD = ("©", "®")
_OF_NOBODY = (
    r"(?:all|everyone|everybody|every1|here|channel|room|group|online|team|members|admins?|mods?|moderators?|followers|"
    r"highlight|anyone|staff|managers|nobody|someone)(?!\w)"
)
# Of a person in social media, also in the address of a page. Attributes in XPath stand behind "[" or "/".
HANDLE = re.compile(
    rf"(?i)(?<![\w.@/\\=\[{{$&*%`'\"-])@(?!{_OF_PROGRAMS}|{_OF_NOBODY})[a-z_]\w{{2,29}}(?:\.\w{{1,29}})?(?![\w(@/]|\.\w)"
    r"|(?:(?<=\.[a-z]{2}/)|(?<=\.[a-z]{3}/)|(?<=\.[a-z]{4}/)|(?<=\.example/))@\w[\w.-]{1,39}\w"
)
STRICT_IBAN = re.compile(r"(?i)(?<!\w)[A-Z]{2} ?\d{2}(?:[ -]?\d){10,}")
