"""Personal data in spellings that hide it from a plain pattern, and what becomes of each.

Every value is invented. `docs/reference/security-cases.md` has the table; `test_spellings.py` runs it.
"""

from typing import Literal, NamedTuple

from sovereign_pipeline.policy.personal_data import Kind

Outcome = Literal["replaced", "refused", "passes"]


class Spelling(NamedTuple):
    """One way to write one value."""

    how: str
    """In words."""
    text: str
    kind: Kind
    hidden: tuple[str, ...]
    """Pieces of the text that must be gone."""
    language: Literal["en", "ar"] = "en"
    outcome: Outcome = "replaced"


def _passes(how: str, text: str, kind: Kind, hidden: tuple[str, ...], language: Literal["en", "ar"] = "en") -> Spelling:
    return Spelling(how, text, kind, hidden, language, "passes")


NUMBERS = (
    Spelling("a line's end within", "my civil number 1045\n7832 is valid", "NID", ("1045", "7832")),
    Spelling("a line's end with carriage return", "civil number 1045\r\n7832", "NID", ("1045", "7832")),
    Spelling("a quoted line's end within", "> civil number 1045\n> 7832, as asked", "NID", ("1045", "7832")),
    Spelling("a line's end two quotes deep", ">> civil number 1045\n>> 7832", "NID", ("1045", "7832")),
    Spelling("label and number cut by quoted lines", "> civil\n> number 1045\n> 7832", "NID", ("1045", "7832")),
    Spelling("a line separator (U+2028) within", "civil number 1045\u20287832", "NID", ("1045", "7832")),
    Spelling("two spaces, no label", "reach me, 9234  1187, today", "PHONE", ("9234", "1187")),
    Spelling("a tab, no label", "reach me, 9234\t1187, today", "PHONE", ("9234", "1187")),
    Spelling("a line's end, no label", "you can reach me on 9234\n1187 today", "PHONE", ("9234", "1187")),
    Spelling("a slash, no label", "it is 1045/7832, I think", "NID", ("1045", "7832")),
    Spelling("a slash with spaces, no label", "it is 1045 / 7832, I think", "NID", ("1045", "7832")),
    Spelling("an underscore in a file's name", "see 1045_7832.pdf", "NID", ("1045", "7832")),
    Spelling("an underscore after a word in a file's name", "see scan_10457832_v2.pdf", "NID", ("10457832",)),
    Spelling("a dash between underscores", "see ref_9234-1187_x", "PHONE", ("9234", "1187")),
    Spelling("a prefix in brackets and a slash", "it is (+968) 9234/1187", "PHONE", ("9234", "1187")),
    Spelling("a card number that looks like a phone", "it was 5500 0000 0000 0004.", "CARD", ("5500", "0004")),
    Spelling("a passport number in groups", "passport AB 123 4567", "PASSPORT", ("123", "4567")),
    Spelling("a full stop", "civil number 1045.7832", "NID", ("1045", "7832")),
    Spelling("a full stop and a space", "civil number 1045. 7832", "NID", ("1045", "7832")),
    Spelling("a comma and a space", "civil number 1045, 7832", "NID", ("1045", "7832")),
    Spelling("a colon", "civil number 1045:7832", "NID", ("1045", "7832")),
    Spelling("quotation marks around each part", 'civil number "1045" "7832"', "NID", ("1045", "7832")),
    Spelling("brackets around a part", "civil number (1045) 7832", "NID", ("1045", "7832")),
    Spelling("a stop after each digit", "civil number 1.0.4.5.7.8.3.2", "NID", ("1.0.4", "8.3.2")),
    Spelling("a space after each digit", "civil number 1 0 4 5 7 8 3 2", "NID", ("1 0 4", "8 3 2")),
    Spelling("a dash after each digit, no label", "it is 1-0-4-5-7-8-3-2", "NID", ("1-0-4", "8-3-2")),
    Spelling("four pairs with slashes, no label", "it is 10/45/78/32", "NID", ("10/45", "78/32")),
    Spelling("asterisks, no label", "it is 1045*7832", "NID", ("1045", "7832")),
    Spelling("two sets of digits in one number", "civil number ١٠٤٥7832", "NID", ("١٠٤٥", "7832")),
    Spelling("two sets of digits with a line's end", "civil number ١٠٤٥\n7832", "NID", ("١٠٤٥", "7832")),
    Spelling("full-width digits", "civil number １０４５７８３２", "NID", ("１０４５", "７８３２")),
    Spelling("mathematical digits", "civil number 𝟏𝟎𝟒𝟓𝟕𝟖𝟑𝟐", "NID", ("𝟏𝟎𝟒𝟓",)),
    Spelling("digits in circles", "civil number ①⓪④⑤⑦⑧③②", "NID", ("①⓪④⑤",)),
    Spelling("superscript digits", "civil number ¹⁰⁴⁵⁷⁸³²", "NID", ("¹⁰⁴⁵",)),
    Spelling("a zero-width space within", "civil number 1045\u200b7832", "NID", ("1045", "7832")),
    Spelling("a soft hyphen within", "civil number 1045\u00ad7832", "NID", ("1045", "7832")),
    Spelling("a variation selector within", "civil number 1045\ufe0f7832", "NID", ("1045", "7832")),
    Spelling(
        "struck out by combining marks", "civil number 1\u03360\u03364\u03365\u03367832", "NID", ("4\u0336", "7832")
    ),
    Spelling("letters O and l for digits", "civil number 1O45 7832", "NID", ("1O45", "7832")),
    Spelling("HTML entities", "civil number 10&#52;5&#55;832", "NID", ("10&#52;", "832")),
    Spelling("an HTML space", "civil number 1045&nbsp;7832", "NID", ("1045", "7832")),
    Spelling("HTML tags within", "civil number 10<b>45</b>7832", "NID", ("10<b>45", "7832")),
    Spelling("an HTML line's end within", "civil number 1045<br/>7832", "NID", ("1045", "7832")),
    Spelling("a semicolon, no label", "it is 1045;7832, I think", "NID", ("1045", "7832")),
    Spelling("a digit a line", "civil number\n1\n0\n4\n5\n7\n8\n3\n2", "NID", ("1\n0", "3\n2")),
    Spelling("digits of emoji", "civil number 1\ufe0f\u20e30\ufe0f\u20e3457832", "NID", ("1\ufe0f", "57832")),
    Spelling("white digits in circles", "civil number ❶⓿❹❺❼❽❸❷", "NID", ("❶⓿",)),
    Spelling("percent-encoding", "civil number 1045%207832", "NID", ("1045", "7832")),
    Spelling("an IBAN with mixed separators", "IBAN OM82-0270/3100 4556\n6770 012", "IBAN", ("0270", "3100", "6770")),
    Spelling("an IBAN in stops, no label", "om82.0270.3100.4556.6770.012", "IBAN", ("0270", "3100", "6770")),
    Spelling("an IBAN in quoted lines", "> IBAN OM82 0270\n> 3100 4556 6770\n> 012", "IBAN", ("0270", "3100", "6770")),
    Spelling("a card number with slashes", "it was 4111/1111/1111/1111", "CARD", ("4111", "1111")),
    Spelling("a card number across lines", "it was 4111\n1111 1111 1111", "CARD", ("4111", "1111")),
    Spelling("a card number in a file's name", "card_4111_1111_1111_1111.jpg", "CARD", ("4111", "1111")),
    Spelling("a phone with a prefix in slashes", "it is +968/9234/1187", "PHONE", ("9234", "1187")),
    Spelling("a phone with a prefix across lines", "it is +968 9234\n1187", "PHONE", ("9234", "1187")),
    Spelling("a phone with two kinds of separators", "it is +968 (9234) – 1187", "PHONE", ("9234", "1187")),
    Spelling("a phone in a link", "tel:%2B968%2092341187", "PHONE", ("92341187",)),
    Spelling("a phone from abroad with stops", "it is +44.20.7946.0018", "PHONE", ("7946", "0018")),
    Spelling("a passport number with a slash", "passport AB/1234567", "PASSPORT", ("1234567",)),
    Spelling("a passport number across lines", "passport AB\n1234567", "PASSPORT", ("1234567",)),
    Spelling("an account number with slashes", "account 0123/456789/012", "ACCOUNT", ("0123", "456789")),
    Spelling("a social security number with slashes", "it is 219/09/9999", "SSN", ("219", "9999")),
    Spelling("an address of a machine with brackets", "from 192[.]0[.]2[.]44", "IP", ("192", "44")),
    Spelling("a date of birth across lines", "born on\n4 May\n1983", "DATE_OF_BIRTH", ("4 May", "1983")),
    Spelling("a date of birth with spaces", "born 4 / 5 / 1983", "DATE_OF_BIRTH", ("4 / 5", "1983")),
    Spelling("a registration with label across lines", "commercial\nregistration 1234567", "CR", ("1234567",)),
    Spelling("a line's end within, in Arabic", "الرقم المدني ١٠٤٥\n٧٨٣٢", "NID", ("١٠٤٥", "٧٨٣٢"), "ar"),
    Spelling("a quoted line's end, in Arabic", "> الرقم المدني ١٠٤٥\n> ٧٨٣٢", "NID", ("١٠٤٥", "٧٨٣٢"), "ar"),
    Spelling("a slash, in Arabic", "الرقم المدني ١٠٤٥/٧٨٣٢", "NID", ("١٠٤٥", "٧٨٣٢"), "ar"),
    Spelling("a tatweel within, in Arabic", "الرقم المدني ١٠٤٥ـ٧٨٣٢", "NID", ("١٠٤٥", "٧٨٣٢"), "ar"),
    Spelling("Persian digits", "الرقم المدني ۱۰۴۵۷۸۳۲", "NID", ("۱۰۴۵",), "ar"),
    Spelling("a phone across quoted lines, in Arabic", "هاتف ٩٢٣٤\n> ١١٨٧", "PHONE", ("٩٢٣٤", "١١٨٧"), "ar"),
    Spelling("a phone with a slash, in Arabic", "هاتفي ٩٢٣٤ / ١١٨٧", "PHONE", ("٩٢٣٤", "١١٨٧"), "ar"),
    Spelling(
        "direction marks within, in Arabic", "الرقم المدني \u2067١٠٤٥\u2069\u200f٧٨٣٢", "NID", ("١٠٤٥", "٧٨٣٢"), "ar"
    ),
    Spelling("two zeros and a country, spaced from the rest", "Tel: 00968 - 92341187", "PHONE", ("92341187",)),
    Spelling("two zeros and a country before a slash", "Tel: 00968 / 92341187", "PHONE", ("92341187",)),
    Spelling("two zeros and a country before a line's end", "Tel: 00968\n92341187", "PHONE", ("92341187",)),
    Spelling("a country abroad before a slash", "Mobile: 00971 / 50 1234567", "PHONE", ("1234567",)),
    Spelling("two zeros and a country alone", "Tel: 00968 and Fax: 00", "PHONE", ("00968",)),
    Spelling("two zeros and a country, in Arabic", "هاتف: 00968 - ٩٢٣٤١١٨٧", "PHONE", ("٩٢٣٤١١٨٧",), "ar"),
    Spelling("two numbers of a table with commas", "Salim,10457832,92341187", "NID", ("10457832", "92341187")),
    Spelling("small figures beside it in a table", "Salim,10457832,41,92341187,7", "NID", ("10457832", "92341187")),
    Spelling("a number with its country in a table", "3,96892341187,5", "PHONE", ("92341187",)),
    Spelling("an entry of a list with a dash", "1-92341187\n2-92341188", "PHONE", ("92341187", "92341188")),
    Spelling("an entry of a list, in Arabic", "١-٩٢٣٤١١٨٧", "PHONE", ("٩٢٣٤١١٨٧",), "ar"),
    Spelling("an entry of a list with a stop", "1.10457832", "NID", ("10457832",)),
    Spelling("a phone in groups behind a list's number", "1.9234 1187", "PHONE", ("9234", "1187")),
    Spelling("two numbers and one label", "civil numbers 10457832,10457833", "NID", ("10457832", "10457833")),
    Spelling("behind a point in time", "at 10:30,92341187", "PHONE", ("92341187",)),
    Spelling("as a fraction of a table", "it is 10457832.0", "NID", ("10457832",)),
    Spelling("as a fraction of a table, with a label", "civil number 10457832.0", "NID", ("10457832",)),
    Spelling("a passport number as a fraction", "passport number 1234567.0", "PASSPORT", ("1234567",)),
    Spelling("a phone as a file number", "see TEL/968/92341187", "PHONE", ("92341187",)),
    Spelling("a civil number as a file number", "see PRM/2024/10457832", "NID", ("10457832",)),
    Spelling("halves as a file number", "civil number NID/1045/7832", "NID", ("1045", "7832")),
    Spelling("a year as a file number behind a label", "civil number NID/2024/7832", "NID", ("7832",)),
    Spelling("tags with attributes", 'it is 1045<span style="color: red">7832</span>', "NID", ("1045", "7832")),
    Spelling("tags without quotes", "it is <font color=red>1045</font><o:p>7832</o:p>", "NID", ("1045", "7832")),
    Spelling("a comment within", "it is 1045<!-- x -->7832", "NID", ("1045", "7832")),
    Spelling("a civil number in an attribute", 'see <a title="10457832">this</a>', "NID", ("10457832",)),
    Spelling(
        "a number around another one", 'it is 1045<b title="92341187">7832</b>', "NID", ("1045", "7832", "92341187")
    ),
    Spelling("a plus within", "civil number 1045+7832", "NID", ("1045", "7832")),
    Spelling("an ampersand within", "civil number 1045 & 7832", "NID", ("1045", "7832")),
    Spelling("an equals sign within", "civil number 1045=7832", "NID", ("1045", "7832")),
    Spelling("a cross within", "civil number 1045 x 7832", "NID", ("1045", "7832")),
    Spelling("a word within", "civil number 1045 and 7832", "NID", ("1045", "7832")),
    Spelling("a currency between label and number", "my civil number OMR 10457832", "NID", ("10457832",)),
    Spelling("a date of birth behind its form", "date of birth (dd/mm/yyyy): 04/05/1983", "DATE_OF_BIRTH", ("1983",)),
    Spelling("a date of birth with an ordinal behind", "DOB May 4th, 1983", "DATE_OF_BIRTH", ("May 4th", "1983")),
    Spelling("a date of birth behind an equals sign", "DOB=04-05-83", "DATE_OF_BIRTH", ("04-05-83",)),
    Spelling("a passport number with letters within", "Passport C01X00T47", "PASSPORT", ("C01X00T47",)),
    Spelling("a passport number with letters behind digits", "Passport 12AB34567", "PASSPORT", ("12AB34567",)),
    Spelling("a phone after its first digit", "it is 9 2341187", "PHONE", ("2341187",)),
    Spelling("pairs that grow, with slashes", "phone 91/92/93/94", "PHONE", ("91/92", "93/94")),
    _passes("digits as words", "civil number one zero four five seven eight three two", "NID", ("one zero four",)),
    _passes("eight digits across years, no label", "it is 1999/7832", "NID", ("7832",)),
)

ADDRESSES = (
    Spelling("percent-encoded", "write to hamood%40canary.example", "EMAIL", ("hamood", "canary")),
    Spelling("percent-encoded, without a domain", "name%40host", "EMAIL", ("name", "host")),
    Spelling("percent-encoded twice", "write to hamood%2540canary.example", "EMAIL", ("hamood", "canary")),
    Spelling("spaces around the at", "write to hamood @ canary.example", "EMAIL", ("hamood", "canary")),
    Spelling("a numeric HTML entity", "write to hamood&#64;canary.example", "EMAIL", ("hamood", "canary")),
    Spelling("a hexadecimal HTML entity", "write to hamood&#x40;canary.example", "EMAIL", ("hamood", "canary")),
    Spelling("a named HTML entity", "write to hamood&commat;canary.example", "EMAIL", ("hamood", "canary")),
    Spelling("an entity in an entity", "write to hamood&amp;#64;canary.example", "EMAIL", ("hamood", "canary")),
    Spelling("an escape of JSON", "write to hamood\\u0040canary.example", "EMAIL", ("hamood", "canary")),
    Spelling("quoted-printable", "write to hamood=40canary.example", "EMAIL", ("hamood", "canary")),
    Spelling("cut behind the at", "write to hamood@\ncanary.example", "EMAIL", ("hamood", "canary")),
    Spelling("cut before the at", "write to hamood\n@canary.example", "EMAIL", ("hamood", "canary")),
    Spelling("cut at a stop", "write to hamood@canary.\nexample", "EMAIL", ("hamood", "canary")),
    Spelling("cut within the host", "write to hamood@cana\nry.example", "EMAIL", ("hamood", "cana")),
    Spelling("cut with a hyphen", "write to ham-\nood@canary.example", "EMAIL", ("ood@", "canary")),
    Spelling("cut in a quoted line", "> write to hamood@\n> canary.example", "EMAIL", ("hamood", "canary")),
    Spelling("at and dot in brackets", "write to hamood [at] canary [dot] example", "EMAIL", ("hamood", "canary")),
    Spelling("at and dot as words", "write to hamood at canary dot example", "EMAIL", ("hamood", "canary")),
    Spelling("a full-width at", "write to hamood＠canary.example", "EMAIL", ("hamood", "canary")),
    Spelling("a zero-width space at the at", "write to hamood@\u200bcanary.example", "EMAIL", ("hamood", "canary")),
    Spelling("without a domain", "write to hamood@canary please", "EMAIL", ("hamood", "canary")),
    Spelling("percent-encoded, in Arabic", "بريدي said%40canary.example", "EMAIL", ("said", "canary"), "ar"),
    Spelling("cut behind the at, in Arabic", "بريدي said@\ncanary.example", "EMAIL", ("said", "canary"), "ar"),
    Spelling("a tag with attributes", 'at hamood<b class="a">@</b>canary.example', "EMAIL", ("hamood", "canary")),
    Spelling("in a link's address", '<a href="mailto:hamood@canary.example">x</a>', "EMAIL", ("hamood", "canary")),
    Spelling("at in words, a dot as it is", "write to hamood at canary.example", "EMAIL", ("hamood", "canary")),
    Spelling("a letter for the at in brackets", "write to hamood(a)canary.example", "EMAIL", ("hamood", "canary")),
    Spelling("at and dot between dashes", "write to hamood-at-canary-dot-example", "EMAIL", ("hamood", "canary")),
    Spelling("two signs", "write to hamood@@canary.example", "EMAIL", ("hamood", "canary")),
    Spelling("a local part in quotes", 'write to "said x"@canary.example', "EMAIL", ("said x", "canary")),
    Spelling("an empty line behind the at", "write to hamood@\n\ncanary.example", "EMAIL", ("hamood", "canary")),
    Spelling("an entity with zeros", "write to hamood&#000000064;canary.example", "EMAIL", ("hamood", "canary")),
    Spelling("an escape of browsers", "write to hamood%u0040canary.example", "EMAIL", ("hamood", "canary")),
    Spelling(
        "encodings over each other", "write to hamood&#37;&#50;5&#52;0canary.example", "EMAIL", ("hamood", "canary")
    ),
    Spelling(
        "seven encodings",
        "write to hamood\\u0026#37;\\u0032\\u0035&#50;5&amp;#52;0canary.example",
        "EMAIL",
        ("hamood", "canary"),
    ),
    _passes("Base64", "write to aGFtb29kQGNhbmFyeS5leGFtcGxl", "EMAIL", ("aGFtb29k",)),
)

NAMES = (
    Spelling("underscores in a file's name", "see hamood_al_araimi.pdf", "NAME", ("hamood", "araimi")),
    Spelling("capitals in a file's name", "see Hamood_Al_Araimi_passport.pdf", "NAME", ("Hamood", "Araimi")),
    Spelling("stops in a file's name", "see Hamood.Al.Araimi.docx", "NAME", ("Hamood", "Araimi")),
    Spelling("written together in a file's name", "see HamoodAlAraimi.pdf", "NAME", ("Hamood", "Araimi")),
    Spelling("a given name alone in a file's name", "see scan-hamood-2.pdf", "NAME", ("hamood",)),
    Spelling(
        "hyphens in the address of a page",
        "https://host.example/staff/margaret-thompson",
        "NAME",
        ("margaret", "thompson"),
    ),
    Spelling("a path of the address", "https://host.example/hamood/al-araimi/", "NAME", ("hamood", "araimi")),
    Spelling("a plus sign in a query", "https://host.example/?q=Margaret+Thompson", "NAME", ("Margaret", "Thompson")),
    Spelling("percent-encoded", "https://host.example/Hamood%20Al%20Araimi", "NAME", ("Hamood", "Araimi")),
    Spelling("a folder of Windows", "C:\\Users\\Margaret.Thompson\\x", "NAME", ("Margaret", "Thompson")),
    Spelling("a Cyrillic letter", "H\u0430mood Al Ar\u0430imi came", "NAME", ("mood", "imi")),
    Spelling("Greek letters", "H\u03b1m\u03bf\u03bfd Al Ar\u03b1imi came", "NAME", ("H\u03b1m", "imi")),
    Spelling("full-width letters", "Ｈａｍｏｏｄ Ａｌ Ａｒａｉｍｉ came", "NAME", ("Ｈａｍ", "Ａｒａ")),
    Spelling("mathematical letters", "𝐇𝐚𝐦𝐨𝐨𝐝 Al Araimi came", "NAME", ("𝐇𝐚𝐦", "Araimi")),
    Spelling("white letters in squares", "🅷🅰🅼🅾🅾🅳 🅰🅻 🅰🆁🅰🅸🅼🅸 came", "NAME", ("🅷🅰", "🆁🅰🅸")),
    Spelling("HTML tags within", "Ha<b>mood</b> Al Ara<i>imi</i> came", "NAME", ("mood", "imi")),
    Spelling("a zero-width space within", "Ha\u200bmood Al Ara\u200bimi came", "NAME", ("mood", "imi")),
    Spelling("a combining mark on letters", "Ha\u0336mood Al Ara\u0336imi came", "NAME", ("mood", "imi")),
    Spelling("HTML entities", "Hamood Al Ara&#105;mi came", "NAME", ("Hamood", "Ara")),
    Spelling("tags with attributes", 'Ham<span lang="en">ood</span> Al Araimi came', "NAME", ("ood", "Araimi")),
    Spelling("an attribute", '<img alt="Hamood Al Araimi">', "NAME", ("Hamood", "Araimi")),
    Spelling("a line's end within", "it was Hamood\nAl Araimi who came", "NAME", ("Hamood", "Araimi")),
    Spelling("a quoted line's end within", "> it was Margaret\n> Thompson who came", "NAME", ("Margaret", "Thompson")),
    Spelling("two spaces within", "it was Hamood  Al  Araimi", "NAME", ("Hamood", "Araimi")),
    Spelling("underscores in an Arabic file's name", "انظر سعيد_العريمي.pdf", "NAME", ("سعيد", "العريمي"), "ar"),
    Spelling("a Persian letter in an Arabic name", "جاء السيد سعید العریمی اليوم", "NAME", ("سع", "العر"), "ar"),
    Spelling("Arabic presentation forms", "جاء السيد ﺳﻌﻴﺪ العريمي", "NAME", ("ﺳﻌ", "العريمي"), "ar"),
    Spelling("percent-encoded Arabic", "/%D8%B3%D8%B9%D9%8A%D8%AF_العريمي", "NAME", ("%D8%B3", "العريمي"), "ar"),
    _passes("a family name alone in a file's name", "see araimi.pdf", "NAME", ("araimi",)),
    _passes("letters with spaces between", "it was H a m o o d", "NAME", ("H a m",)),
)

SPELLINGS: tuple[Spelling, ...] = (*NUMBERS, *ADDRESSES, *NAMES)


def spelling_rows() -> list[tuple[str, str, str, str]]:
    """(spelling in words, language, kind, outcome) of each, for a table."""
    return [(each.how, each.language, each.kind, each.outcome) for each in SPELLINGS]
