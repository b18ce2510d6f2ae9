"""Plates of vehicles, and the numbers by which vessels are registered.

What belongs here: their forms and labels. Both are of the kind PLATE: each leads to one owner.
"""

import re

from sovereign_pipeline.privacy.identifiers.fragments import NOT_A_QUANTITY

_LATIN = r"[A-Z] ?[A-Z]?"
_ARABIC = r"[ء-ي](?: ?[ء-ي])?"
# Three letters are an emirate: "DXB-K-48211".
_LETTERS_FIRST = rf"(?:[A-Z]{{3}}[ /-]?)?{_LATIN}[ /-]{{0,2}}\d{{2,5}}|{_ARABIC}[ /-]{{0,2}}\d{{3,5}}"
# In capitals, such as "4500 KG": no letters of a plate, unless the text says that it is a number.
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
    """The last digit is that of the sum of the others, weighted 7 to 2."""
    digits = [int(digit) for digit in value if digit.isdigit()]
    return sum(weight * digit for weight, digit in zip(range(7, 1, -1), digits, strict=False)) % 10 == digits[6]
