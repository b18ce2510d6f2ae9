"""Values of columns of states, such as whether a letter was withdrawn: spellings, and which may be shown.

What belongs here: when a value of a file is the one that a recipe names, and what words are no name of a person. What
does not: rows (`documents_from_rows.py`).
"""

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from typing import Any

from sovereign_pipeline.corpus.values import NO_VALUE

_TRUE = frozenset(("true", "yes", "y", "t", "on", "1", "نعم"))
_FALSE = frozenset(("false", "no", "n", "f", "off", "0", "لا"))
_NUMBER = re.compile(r"[-+]?\d+(?:\.\d*)?", re.ASCII)
_TAG_OF_LANGUAGE = re.compile(r"[a-z]{2}(?:-[A-Z]{2})?")
_SHORT_NUMBER = re.compile(r"\d{1,2}(?:\.0)?", re.ASCII)
_SHOWN = frozenset(
    f"""{" ".join(_TRUE | _FALSE)}
    open closed answered unanswered pending draft final new done active inactive approved refused rejected withdrawn
    published archived sent received cancelled deleted completed incomplete assigned unassigned resolved unresolved
    waiting current expired valid invalid public internal confidential secret restricted official unclassified
    protected private sensitive low medium normal high urgent critical letter email phone fax web form post question
    answer reply request complaint application english arabic french german spanish en ar good bad neutral positive
    negative unknown other مفتوح مغلق عام سري داخلي محدود جديد مكتمل معلق عربي إنجليزي""".split()
) | {"in progress", "on hold", "top secret", "not answered", "e-mail", "no reply"}
"""Words of states, levels, kinds and languages. Any other word may be somebody's name."""
_MOST_SHOWN = 8


def truth_of(value: Any) -> bool | None:
    """Whether a value says yes or no, in any usual spelling; None for another one, and for none."""
    text = _compared(value)
    return True if text in _TRUE else False if text in _FALSE else None


def is_wanted(value: Any, wanted: str | int | bool | None) -> bool:
    """Whether a value of a file is the one that `where` names, whatever its spelling.

    An empty value is null, and false: exports leave the cell of what is not so empty.
    """
    if isinstance(value, bool):
        return truth_of(wanted) is value
    text = _compared(value)
    if isinstance(wanted, bool):
        return truth_of(value) is wanted or (text in NO_VALUE and not wanted)
    if wanted is None or not str(wanted).strip():
        return text in NO_VALUE
    return text == _compared(wanted)


def may_be_shown(text: str, *, of_languages: bool = False) -> bool:
    """Whether a value is a word of states, levels or languages, or a small number.

    Args:
        of_languages: whether the value's column is one of languages. Names of people have two letters too.
    """
    word = text.strip().casefold()
    return word in _SHOWN or bool(
        _SHORT_NUMBER.fullmatch(word) or (of_languages and _TAG_OF_LANGUAGE.fullmatch(text.strip()))
    )


def values_told(seen: Mapping[str, int]) -> str:
    """The values of a column for a message, with how often each stands there; what may be a text is counted."""
    shown = [
        f"{value.strip() or 'nothing'} ({times:,})"
        for value, times in Counter(seen).most_common()
        if not value.strip() or may_be_shown(value)
    ]
    others = len(seen) - len(shown)
    more = [f"{others:,} {'values' if others > 1 else 'value'} not shown"] if others else []
    cut = [f"{len(shown) - _MOST_SHOWN:,} more"] if len(shown) > _MOST_SHOWN else []
    return ", ".join([*shown[:_MOST_SHOWN], *cut, *more])


def _compared(value: Any) -> str:
    """A value as it is compared: NFKC, without blanks around it and letter case, `1.0` as `1`."""
    if value is None or (isinstance(value, float | Decimal) and math.isnan(value)):
        return ""
    text = unicodedata.normalize("NFKC", str(value)).strip().casefold()
    text = "".join(str(unicodedata.decimal(each, each)) for each in text) if not text.isascii() else text
    if _NUMBER.fullmatch(text) is None or _has_zeros_in_front(text):
        return text
    try:
        number = Decimal(text)
    except InvalidOperation:
        return text
    return str(number.to_integral_value()) if number == number.to_integral_value() else str(number.normalize())


def _has_zeros_in_front(text: str) -> bool:
    digits = text.lstrip("+-")
    return len(digits) > 1 and digits[0] == "0" and digits[1] != "."
