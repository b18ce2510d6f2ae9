"""Find foreign postal addresses around a street or postcode, and coordinates."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

_WORDS: dict[str, list[str]] = json.loads(Path(__file__).with_name("addresses.json").read_bytes())
"""Words for streets in many languages, by their place beside the name, and countries."""


def _any_of(place: str) -> str:
    return "|".join(_WORDS[place])


# Words are bounded and possessive: backtracking over a long word would take quadratic time.
_WORD = r"[^\W\d_a-z][\w.'’-]{0,30}+"  # with a capital, in any script that has them
_LINKED = (
    rf"(?:(?:de|del|della|da|do|dos|das|des|du|la|le|les|van|von|der|den|het|of|the|na|nad|y|et|and) ){{0,2}}{_WORD}"
)
_NUMBER = r"\d{1,5}(?:[/-]\d{1,4})?[A-Za-z]?(?!\w)"
_UNIT = r"(?i:apt|apartment|suite|ste|unit|flat|floor|room|bldg|building|block|door|lot)\.? ?#? ?\d{1,5}[A-Za-z]?(?!\w)"
# After the name: "24 Clarke Avenue".
_TYPE_AFTER = rf"(?:{_any_of('behind the name')})\.?(?!\w)"
# Before the name: "Rua Igreja 25", "26 rue de la Gare".
_TYPE_BEFORE = rf"(?:{_any_of('before the name')})"
# Joined with the name: "Friedhofstrasse 33", "Aftonvägen 12".
_GROWN = rf"(?<!\w)[^\W\d_][\w-]{{0,30}}?(?:{_any_of('joined with the name')})"
# A separate word after the name and before the number: "Erzsébet tér 19.", "Luite tee 87".
_TYPE_WORD = rf"(?:{_any_of('a separate word')})"
# "P.O. Box" alone, as it is written in the Gulf, carries its own label (`recognizers.py`).
_BOX = r"(?i:p\.? ?o\.? ?box|post office box)(?: (?i:no)\.?)? ?\d{1,6}"
_BOX_ABROAD = r"(?i:post ?box|postboks|postfach|apartado|casilla|boîte postale)(?: (?i:no)\.?)? ?\d{1,6}"
_MILITARY = (
    r"(?:(?i:psc|unit|cmr) \d{1,5},? (?i:box) \d{1,5}|US(?:NS|NV|S|CGC) [A-Z]\w+(?=[ ,]{0,3}\n?[>| ]{0,6}[A-Z]PO ))"
    r"(?:[ ,]{0,3}\n?[>| ]{0,6}[A-Z]PO A[AEP] \d{5})?"
    r"|[A-Z]PO A[AEP] \d{5}"
)
_POSTCODE = (
    r"(?:[A-Z]{1,2}\d[A-Z\d]? ?\d[A-Z]{2}|[A-Z]\d[A-Z] ?\d[A-Z]\d|\d{3} \d{2}|\d{2}-\d{3}|\d{5}-\d{3,4}|"
    r"\d{4} ?[A-Z]{2}|\d{3,6})(?!\w)(?![ .,-]?\d)"
)
_UK_POSTCODE = r"(?<![\w/])[A-Z]{1,2}\d[A-Z\d]? \d[A-Z]{2}(?!\w)"
_COUNTRY = rf"(?i:{_any_of('countries')})(?!\w)"
_TOWN = rf"{_LINKED}(?:[ -](?:{_LINKED}|\({_WORD}\))){{0,3}}"
_REGION = r"(?:[A-Z]{1,3}|\d{2}|[A-Z][a-z]+(?: [A-Z][a-z]+)?)(?![\w.])"
# A comma, a space, or the end of a line of a letter or of a quoted one.
_THEN = r"(?:,? ?\n{1,3}[ \t]{0,8}(?:[>|]{1,3} ?)?[ ,]{0,4}|, ?| )"
_LINE = r"(?:,? ?\n{1,3}[ \t]{0,8}(?:[>|]{1,3} ?)?[ ,]{0,4}|, )"

_STREET = re.compile(
    rf"(?<![\w/.,:])(?:"
    rf"(?:(?!(?:19|20)\d\d,){_NUMBER},? ){{1,2}}(?:{_LINKED} ){{1,4}}?(?<!Supreme ){_TYPE_AFTER}"
    rf"|(?:{_NUMBER},? ){{0,2}}{_TYPE_BEFORE} {_LINKED}(?: {_LINKED}){{0,4}}?,? {_NUMBER}"
    rf"|(?:{_NUMBER},? ){{1,2}}{_TYPE_BEFORE} {_LINKED}(?: {_LINKED}){{0,3}}"
    rf"|(?:{_NUMBER},? ){{0,2}}(?:{_WORD} ){{0,3}}{_GROWN},? {_NUMBER}"
    rf"|(?:{_NUMBER},? ){{1,2}}(?:{_WORD} ){{0,2}}{_GROWN}(?!\w)"
    rf"|(?:{_NUMBER},? ){{0,2}}(?:{_WORD} ){{1,3}}{_TYPE_WORD} {_NUMBER}"
    rf"|{_NUMBER} {_BOX}|(?:{_NUMBER} )?{_BOX_ABROAD}|{_MILITARY})"
)
# A name between two numbers is an address only after a cue, or before a unit or a town.
_BETWEEN_NUMBERS = re.compile(rf"(?<![\w/.,:-])\d{{2,5}} {_WORD}(?: {_LINKED}){{0,3}} {_NUMBER}")
_NAME_AND_NUMBER = re.compile(rf"{_WORD}(?: {_LINKED}){{0,3}} \d{{1,4}}(?!\w)(?![.,:]\d)")
_CUE = re.compile(
    r"(?i)(?:\b(?:lives?|living|lived|reside[sd]?|residing|stay(?:s|ing)?|located|office|shop|restaurant|store|house|"
    r"meet (?:me|you|us)|deliver(?:ed)?|sent?|return|station) (?:is |are )?(?:now )?(?:at|in|on|to)"
    r"|\baddress(?:es)?(?: here)?(?: is|:|,| are)?(?: to| with)?(?: me at)?)[: \n]{0,4}(?:[>|]{1,3} )?\Z"
)
_BEFORE = re.compile(rf"(?:(?:{_UNIT}|{_NUMBER}),?[ \n]+)+\Z")
_AFTER = re.compile(
    rf"(?:{_THEN}{_UNIT}){{0,3}}"
    rf"(?:{_THEN}(?:{_MILITARY}))?"
    rf"(?:{_THEN}{_TOWN}(?:{_THEN}{_REGION})?(?:{_THEN}{_COUNTRY})?{_THEN}{_POSTCODE}"
    rf"|{_THEN}{_TOWN}(?:{_LINE}{_REGION})?{_THEN}{_COUNTRY}(?:{_THEN}{_POSTCODE})?"
    rf"|{_THEN}{_POSTCODE} {_TOWN}"
    rf"|, {_TOWN})?"
)
_NEXT_UNIT_OR_TOWN = re.compile(rf"{_THEN}{_UNIT}|{_LINE}{_TOWN}(?:{_LINE}|\Z|[.?!])|{_THEN}{_POSTCODE}")
_CORNER = re.compile(rf"\b[Tt]he corner of {_WORD}(?: (?:{_LINKED}|\d+)){{0,3}} and {_WORD}(?: (?:{_WORD}|\d+)){{0,3}}")
_MONTH = re.compile(
    r"(?:January|February|March|April|May|June|July|August|September|October|November|December|"
    r"Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec|Article|Section|Act|Regulations?|Order|Schedule|Clause|Paragraph|Part)"
)
_YEAR = re.compile(r"(?:19|20)\d\d\Z")


def address_spans(text: str) -> Iterator[tuple[int, int]]:
    """Yield the half-open spans of addresses in a normalised text, in reading order, without overlaps."""
    last = 0
    for start, end in sorted(_anchors(text)):
        if start < last:
            continue
        before = _BEFORE.search(text, max(last, start - 40), start)
        after = _AFTER.match(text, end)
        last = after.end() if after else end
        yield (before.start() if before else start), last


def _anchors(text: str) -> Iterator[tuple[int, int]]:
    for match in _STREET.finditer(text):
        yield match.span()
    for match in _CORNER.finditer(text):
        yield match.span()
    for match in re.finditer(_UK_POSTCODE, text):
        yield match.span()
    for match in _BETWEEN_NUMBERS.finditer(text):
        cued = _CUE.search(text, max(0, match.start() - 40), match.start()) is not None
        plain = _MONTH.search(match.group()) is None and _YEAR.search(match.group()) is None
        if plain and (cued or _NEXT_UNIT_OR_TOWN.match(text, match.end())):
            yield match.span()
    for match in _NAME_AND_NUMBER.finditer(text):
        plain = _MONTH.search(match.group()) is None and _YEAR.search(match.group()) is None
        if plain and _CUE.search(text, max(0, match.start() - 40), match.start()):
            yield match.span()


_PART = (
    r"\d{1,3}(?:\.\d{1,9})?\s?°\s?(?:\d{1,2}(?:\.\d{1,6})?\s?['′’]\s?(?:\d{1,2}(?:\.\d{1,6})?\s?(?:[\"″”]|''|′′))?)?\s?"
    r"(?:[NSEWnsew](?![A-Za-z])|(?:شمال|جنوب|شرق|غرب)\w{0,2})"
)
IN_DEGREES = re.compile(rf"(?<![\d.]){_PART}(?:(?:\s?[,;/]\s?|\s(?:and |و)?){_PART})?")
_DECIMAL = r"-?\d{{1,3}}\.\d{{{places},9}}(?:\s?°)?(?:\s?[NSEW](?![A-Za-z]))?"
_BETWEEN = r"\s?[,،;/ ]\s?"
DECIMAL_PAIR = re.compile(rf"(?<![\d.,]){_DECIMAL.format(places=4)}{_BETWEEN}{_DECIMAL.format(places=4)}(?!\d|\.\d)")
_LABELS = r"co-?ordinates?|gps|position|latitude|longitude|lat|lon|long|lng|(?:ال)?[إا]حداثيات|خط (?:العرض|الطول)"
PAIR_BY_LABEL = re.compile(
    rf"(?i)(?<!\w)(?:{_LABELS})(?!\w)[^\d\n-]{{0,30}}"
    rf"(?P<value>{_DECIMAL.format(places=2)}{_BETWEEN}{_DECIMAL.format(places=2)})(?!\d|\.\d)"
)
BY_LABEL = re.compile(
    r"(?i)(?<!\w)(?:(?:latitude|longitude|خط (?:العرض|الطول))\s?[:=]?|(?:lat|lon|long|lng)\.?\s?[:=])\s{0,3}"
    rf"(?P<value>{_DECIMAL.format(places=2)})(?!\d|\.\d)"
)
SIGNS_OF_LABELS = ("lat", "lon", "lng", "ordinate", "gps", "position", "حداثيات", "خط العرض", "خط الطول")
_DECIMAL_NUMBER = re.compile(r"-?\d+\.\d+")
_SURE_PLACES = 5
"""Decimal places that make a pair of numbers a place: five, about a metre. Rates and measurements have fewer."""


def is_on_the_globe(pair: str) -> bool:
    """Return whether two numbers can be latitude and longitude, in either order."""
    one, other = (abs(float(each)) for each in _DECIMAL_NUMBER.findall(pair)[:2])
    return min(one, other) <= 90 and max(one, other) <= 180


def is_a_place(pair: str) -> bool:
    """Return whether an unlabelled pair of numbers is a place, by its signs (°, N, S, E, W) or its precision."""
    exact = all(len(each.partition(".")[2]) >= _SURE_PLACES for each in _DECIMAL_NUMBER.findall(pair)[:2])
    return is_on_the_globe(pair) and (exact or re.search("[°NSEW]", pair) is not None)
