"""Places on the globe by their coordinates, as exact as a house.

What belongs here: their forms. What does not: places by their names (name models), addresses (`addresses.py`).
"""

import re

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
_NUMBER = re.compile(r"-?\d+\.\d+")
_SURE_PLACES = 5
"""Digits behind the point: a metre. Rates and measures have fewer."""


def is_on_the_globe(pair: str) -> bool:
    """Whether two numbers can be latitude and longitude, in either order."""
    one, other = (abs(float(each)) for each in _NUMBER.findall(pair)[:2])
    return min(one, other) <= 90 and max(one, other) <= 180


def is_a_place(pair: str) -> bool:
    """The same without a label: by its signs, or since nothing else is that exact."""
    exact = all(len(each.partition(".")[2]) >= _SURE_PLACES for each in _NUMBER.findall(pair)[:2])
    return is_on_the_globe(pair) and (exact or re.search("[°NSEW]", pair) is not None)
