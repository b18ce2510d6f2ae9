"""Find identifiers by published forms and check digits: the table `forms.json`, checked with `python-stdnum`."""

import importlib
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Literal

from stdnum import bitcoin

from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.privacy.spans import Span, value_key

# A token with a digit. Every form begins at the start of one, or at the letters before it.
_TOKEN = re.compile(r"(?<![^\W_])(?<!<)(?:[A-Z]{1,5} (?=\d))?(?P<own>)[^\W\d_<]*+(?:<[A-Z<]{0,40}+)?\d")


@dataclass(frozen=True)
class Form:
    """A row of `forms.json`."""

    kind: Kind
    name: str
    form: str
    """Pattern of the value."""
    check: str
    """Module of python-stdnum, or a key of `_CHECKS`; empty if the form is unmistakable."""
    weak: bool
    """Whether other numbers have the form too, so that any other finding takes precedence."""

    @property
    def by(self) -> Literal["check digits", "form"]:
        return "check digits" if self.check else "form"

    def accepts(self, value: str) -> bool:
        return not self.check or _check(self.check)(value)


FORMS = tuple(
    Form(row["kind"], row["name"], row["form"], row.get("check", ""), row.get("weak", False))
    for row in json.loads(Path(__file__).with_name("forms.json").read_bytes())
)


def spans_by_form(text: str) -> Iterator[Span]:
    """Yield the values of a normalised text that have one of the forms, and the lines of machine-readable zones."""
    for token in _TOKEN.finditer(text):
        for start in {token.start(), token.start("own")}:
            for form, pattern in _patterns():
                match = pattern.match(text, start)
                if match and form.accepts(match.group()):
                    key = value_key(form.kind, match.group())
                    yield Span(*match.span(), form.kind, key, labelled=not form.weak, by_length=form.weak)
                    break
    if "<<" in text:
        for match in _LINE_OF_A_ZONE.finditer(text):
            if "<<" in match.group() and len(match.group().replace(" ", "")) >= _SHORTEST_LINE_OF_A_ZONE:
                yield Span(*match.span(), "PASSPORT", value_key("PASSPORT", match.group()))


# Names and numbers with fillers between them. Nothing else has this form.
_LINE_OF_A_ZONE = re.compile(
    r"(?<![\w<])(?=[\w< ]{0,40}<<)(?=(?: ?[A-Za-z\d<]){20})[A-Za-z\d<]+(?: ?[A-Za-z\d<]*<[A-Za-z\d<]*)*"
)
_SHORTEST_LINE_OF_A_ZONE = 20


@cache
def _patterns() -> tuple[tuple[Form, re.Pattern[str]], ...]:
    return tuple((form, re.compile(form.form)) for form in FORMS)


@cache
def _check(name: str) -> Callable[[str], bool]:
    if name in _CHECKS:
        return _CHECKS[name]
    is_valid: Callable[[str], bool] = importlib.import_module(name).is_valid
    return lambda value: is_valid(value) or is_valid(re.sub(r"[ ./_–-]", "", value))


# --- checks that python-stdnum lacks ----------------------------------------------------------------------------------

_KUWAITI_WEIGHTS = (2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_VIN_WEIGHTS = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)
_VIN_VALUES = dict(
    zip("ABCDEFGHJKLMNPRSTUVWXYZ0123456789", [*map(int, "12345678123457923456789"), *range(10)], strict=True)
)
_BECH32_CONSTANTS = (1, 0x2BC830A3)
"""Checksums of bech32 (BIP 173) and bech32m (BIP 350)."""


def _is_kuwaiti(value: str) -> bool:
    """Verify the check digit (modulus 11 over the first eleven digits) and that month and day of birth are possible."""
    digits = "".join(filter(str.isdigit, value))
    month, day = int(digits[3:5]), int(digits[5:7])
    weighted = sum(weight * int(digit) for weight, digit in zip(_KUWAITI_WEIGHTS, digits, strict=False))
    return 1 <= month <= 12 and 1 <= day <= 31 and 11 - weighted % 11 == int(digits[11])


def _is_vin(value: str) -> bool:
    """Verify the check digit in the ninth place (ISO 3779, 49 CFR 565)."""
    total = sum(weight * _VIN_VALUES[each] for weight, each in zip(_VIN_WEIGHTS, value.upper(), strict=True))
    return not value.isdigit() and "0123456789X"[total % 11] == value[8].upper()


def _is_zone(value: str) -> bool:
    """Verify the check digits of number, date of birth and date of expiry (ICAO 9303). One may be misread."""
    return sum(_zone_digit(value[start:end]) == value[end] for start, end in ((0, 9), (13, 19), (21, 27))) >= 2


def _is_zone_of_a_card(value: str) -> bool:
    return _zone_digit(value[5:14]) == value[14]


def _zone_digit(field: str) -> str:
    values = (0 if each == "<" else int(each, 36) for each in field)
    return str(sum((7, 3, 1)[place % 3] * value for place, value in enumerate(values)) % 10)


def _is_mac(value: str) -> bool:
    return len(set(re.sub(r"\W", "", value).lower())) > 1


def _is_base58(value: str) -> bool:
    try:
        content = bitcoin.b58decode(value)
    except ValueError:
        return False
    return len(content) == 25 and sha256(sha256(content[:-4]).digest()).digest()[:4] == content[-4:]


def _is_bech32(value: str) -> bool:
    prefix, _, data = value.lower().partition("1")
    values = [bitcoin._bech32_alphabet.index(each) for each in data]
    return bitcoin.bech32_checksum(bitcoin._expand_hrp(prefix) + values) in _BECH32_CONSTANTS


_CHECKS: dict[str, Callable[[str], bool]] = {
    "kuwaiti": _is_kuwaiti,
    "vin": _is_vin,
    "mrz": _is_zone,
    "mrz of a card": _is_zone_of_a_card,
    "mac": _is_mac,
    "base58": _is_base58,
    "bech32": _is_bech32,
}
