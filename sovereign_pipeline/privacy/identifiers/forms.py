"""Find identifiers by their form: by the patterns in `forms.toml`, and by their check digits."""

import importlib
import re
import tomllib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache, cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import phonenumbers
from stdnum import bitcoin, iban, numdb

from sovereign_pipeline.policy.personal_data import KEPT_BY_DEFAULT, Kind
from sovereign_pipeline.privacy.spans import Span, value_key

# --- the table --------------------------------------------------------------------------------------------------------

Clue = Literal["a digit", "five digits", "an @", "an at in words", "anything"]
_TABLE: dict[str, Any] = tomllib.loads(Path(__file__).with_name("forms.toml").read_text(encoding="utf-8"))
_FRAGMENT = re.compile(r"\{([A-Z][A-Z_\d]+)\}")


def section(name: str) -> dict[str, str]:
    """Return the uncompiled patterns in a section of `forms.toml`, with fragments inserted."""
    return {key: _written_out(pattern) for key, pattern in _TABLE[name].items()}


def _written_out(pattern: str) -> str:
    """Return a pattern without line breaks, after replacing the names of fragments with the fragments."""
    plain = re.sub(r"(?:\A|\n) *", "", pattern)
    return _FRAGMENT.sub(lambda name: _written_out(_TABLE["fragments"][name[1]]), plain)


FRAGMENTS = section("fragments")


@dataclass(frozen=True)
class Form:
    """A row of `forms.toml`: a pattern for values of one kind. The value is the match of the pattern's named group. In
    a pattern without a named group, the value is the whole match."""

    kind: Kind
    name: str
    pattern: str
    check: str = ""
    """Check that a value must pass: a module of python-stdnum or a key of `_CHECKS`; empty for none."""
    certain: bool = True
    """True if the pattern makes the kind certain (`Span.labelled`)."""
    certain_by: str = ""
    """Check that a value must also pass for its kind to be certain; empty for none."""
    needs: Clue = "a digit"
    """Clue that a text must contain. Otherwise the pattern is skipped, which saves time."""
    signs: tuple[str, ...] = ()
    """Lower-case substrings. The pattern runs only if the text contains at least one of these. Empty for none."""
    by: Literal["label", "check digits", "form"] = "form"
    """Type of evidence for the kind of a matched value."""
    strict: bool = False
    """True if the form is weak evidence, which the second search of `recognizers.structured_spans` uses."""
    example: str = ""
    counter: str = ""
    """Example of a text that resembles a value of the kind, but contains none."""

    @cached_property
    def compiled(self) -> re.Pattern[str]:
        return re.compile(_written_out(self.pattern))

    def accepts(self, value: str) -> bool:
        return not self.check or _check(self.check)(value)

    def span(self, match: re.Match[str]) -> Span | None:
        """Return the span of the value in a match, or None if the value does not pass the check."""
        group = match.lastgroup if match.lastgroup not in (None, "own") else 0
        value = match[group]
        if not self.accepts(value):
            return None
        certain = self.certain and (not self.certain_by or _check(self.certain_by)(value))
        return Span(*match.span(group), self.kind, value_key(self.kind, value), certain, by_length=self.strict)


def _forms(of: str) -> tuple[Form, ...]:
    by = {"by": "check digits"}
    rows = ({**(by if of == "code" and "check" in row else {}), **row} for row in _TABLE[of])
    return tuple(Form(**{**row, "signs": tuple(row.get("signs", ()))}) for row in rows)


FORMS, CODES = _forms("form"), _forms("code")
"""The patterns of `FORMS` may match anywhere in a text. The patterns of `CODES` are tried only at the start of each
token that has a digit."""


@cache
def _by_clue() -> dict[tuple[Clue, bool], list[Form]]:
    """Return a dict from (clue, strict) to the forms with these properties. The forms of services' API keys, from
    detect-secrets, are included."""
    by_clue: dict[tuple[Clue, bool], list[Form]] = {}
    for form in (*_of_services(), *FORMS):
        by_clue.setdefault((form.needs, form.strict), []).append(form)
    return by_clue


def form_spans(
    text: str, small: str, has: Iterable[Clue], also: frozenset[Kind] = frozenset(), strict: bool = False
) -> Iterator[Span]:
    """Yield the values in a normalised text that have one of the forms.

    Args:
        small: the text folded by `labels.small_letters`.
        has: the clues in the text.
        also: kinds in `KEPT_BY_DEFAULT` that should be detected as well.
        strict: True to use only the strict forms; False to use only the other forms.
    """
    for clue in has:
        for form in _by_clue().get((clue, strict), ()):
            wanted = form.kind not in KEPT_BY_DEFAULT or form.kind in also
            if wanted and (not form.signs or any(map(small.__contains__, form.signs))):
                yield from filter(None, map(form.span, form.compiled.finditer(text)))


_AT_IN_WORDS = re.compile(r" at \w[\w-]*(?: dot |\.)|[-_]dot[-_]|[(\[{<] ?(?:at|@)|[(\[{<]a[)\]}>]")
_DIGIT = re.compile("[0-9]")
_FIVE_DIGITS = re.compile(r"\d(?:[\W_]{0,14}\d){4}")


def clues(text: str, small: str) -> list[Clue]:
    """Return the clues that a text contains. A form is tried only if the text contains its clue (`Form.needs`)."""
    has: dict[Clue, object] = {
        "anything": True,
        "an at in words": _AT_IN_WORDS.search(small),
        "an @": "@" in text,
        "a digit": _DIGIT.search(text),
        "five digits": _FIVE_DIGITS.search(text),
    }
    return [clue for clue, is_there in has.items() if is_there]


# A token with a digit, and the same token with letters before it: "CR 1234567".
_TOKEN = re.compile(r"(?<![^\W_])(?<!<)(?:[A-Z]{1,5} (?=\d))?(?P<own>)[^\W\d_<]*+(?:<[A-Z<]{0,40}+)?\d")
# A line of a passport's machine-readable zone: names and numbers with fillers between them. Nothing else has this form.
_LINE_OF_A_ZONE = re.compile(
    r"(?<![\w<])(?=[\w< ]{0,40}<<)(?=(?: ?[A-Za-z\d<]){20})[A-Za-z\d<]+(?: ?[A-Za-z\d<]*<[A-Za-z\d<]*)*"
)
_SHORTEST_LINE_OF_A_ZONE = 20


def code_spans(text: str) -> Iterator[Span]:
    """Yield the codes (`CODES`) in a normalised text, and the lines of passports' machine-readable zones."""
    for token in _TOKEN.finditer(text):
        for start in {token.start(), token.start("own")}:
            for form in CODES:
                if (match := form.compiled.match(text, start)) and (span := form.span(match)):
                    yield span
                    break
    if "<<" in text:
        for match in _LINE_OF_A_ZONE.finditer(text):
            if "<<" in match.group() and len(match.group().replace(" ", "")) >= _SHORTEST_LINE_OF_A_ZONE:
                yield Span(*match.span(), "PASSPORT", value_key("PASSPORT", match.group()))


@cache
def _of_services() -> tuple[Form, ...]:
    """Return forms for the API keys of online services, with the patterns of detect-secrets, which is imported here."""
    forms = []
    for module, (name, *signs) in _TABLE["services"].items():
        plugin = importlib.import_module(f"detect_secrets.plugins.{module}")
        for pattern in getattr(plugin, name).denylist:
            form = Form("CREDENTIAL", module, pattern.pattern, needs="anything", signs=tuple(signs))
            form.__dict__["compiled"] = pattern
            forms.append(form)
    return tuple(forms)


# --- checks -----------------------------------------------------------------------------------------------------------

DIGITS_OF_A_NATIONAL_ID = 8
# Omani numbering plan: mobile 7[1-9], 9[1-9]; fixed 2[1-6]; toll-free 800.
_OMANI = re.compile(r"7[1-9]\d{6}|9[1-9]\d{6}|2[1-6]\d{6}|800\d{5}")
_YEARS = re.compile(r"((?:1[5-9]|20)\d\d)[ -]{1,3}((?:1[5-9]|20)\d\d)")
_LONGEST_PERIOD = 250
_DATE = re.compile(
    r"(?:19|20)\d\d[ .-][01]?\d[ .-][0-3]?\d|[0-3]?\d[ .-][01]?\d[ .-](?:19|20)\d\d"
    r"|1[34]\d\d[.-][01]?\d[.-][0-3]?\d|[0-3]?\d[.-][01]?\d[.-]1[34]\d\d"
)
_DECIMAL = re.compile(r"-?\d+\.\d+")
_SURE_PLACES = 5
"""Minimum number of decimal places for an unlabelled pair of numbers to count as coordinates. Five places are a
precision of about a metre. Rates and measurements have fewer places."""
_KUWAITI_WEIGHTS = (2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_VIN_WEIGHTS = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)
_VIN_VALUES = dict(
    zip("ABCDEFGHJKLMNPRSTUVWXYZ0123456789", [*map(int, "12345678123457923456789"), *range(10)], strict=True)
)
_BECH32_CONSTANTS = (1, 0x2BC830A3)
"""Valid checksums of bech32 (BIP 173) and bech32m (BIP 350)."""


@cache
def _check(name: str) -> Callable[[str], bool]:
    if name in _CHECKS:
        return _CHECKS[name]
    is_valid: Callable[[str], bool] = importlib.import_module(name).is_valid
    return lambda value: is_valid(value) or is_valid(re.sub(r"[ ./_–-]", "", value))


def count_of_digits(value: str) -> int:
    return sum(character.isdigit() for character in value)


def is_date_or_years(value: str) -> bool:
    """Return whether a value is a range of years or a date: `1872-1936`, `2024-03-09`, Hijri `12-7-1445`."""
    years = _YEARS.fullmatch(value)
    is_period = years is not None and abs(int(years[2]) - int(years[1])) <= _LONGEST_PERIOD
    return is_period or _DATE.fullmatch(value) is not None


def is_omani_phone(value: str) -> bool:
    plain = _without_separators(value)
    return _OMANI.fullmatch(plain) is not None or is_valid_phone(plain, ("OM",))


def is_valid_phone(digits: str, regions: Iterable[str | None]) -> bool:
    """Return True if a number is a valid phone number in one of the regions. For the region None, the number must have
    a country prefix."""
    for region in regions:
        try:
            if phonenumbers.is_valid_number(phonenumbers.parse(digits, region)):
                return True
        except phonenumbers.NumberParseException:  # a prefix without a number
            continue
    return False


def is_iban(characters: str) -> bool:
    """Return True if a value has valid check digits and the form that the IBAN registry states for the country."""
    return bool(iban.is_valid(characters, check_country=False))


@cache
def length_of_an_iban(country: str) -> int:
    """Return the number of characters in an IBAN of a country, according to SWIFT's registry. Return 0 if the country
    is not in the registry."""
    _, facts = numdb.get("iban").info(country.upper())[0]
    return 4 + sum(map(int, re.findall(r"(\d+)!", facts["bban"]))) if facts else 0


def _is_grouped_phone(value: str) -> bool:
    """Return whether a value has 8 to 13 digits before any extension, and is neither a date nor a range of years."""
    digits = count_of_digits(re.split("x|ext", value)[0])
    return 8 <= digits <= 13 and not is_date_or_years(value)


def _without_separators(value: str) -> str:
    return re.sub("[ -]", "", value)


def _looks_like_a_credential(value: str) -> bool:
    """Return True if a value after a label is a credential rather than a word. A credential contains a digit, a symbol
    or unusual capitals. A length such as "8 digits" is not a credential."""
    if any(map(str.isdigit, value)):
        return re.fullmatch(r"\d{1,2}-?(?:digits?|characters?|letters?)", value) is None
    has_sign = re.search(r"\w[^\w\s'’.-]\w|[!#$%&*+?@^_~]", value) is not None
    return has_sign or value not in (value.lower(), value.upper(), value.capitalize())


def _is_on_the_globe(pair: str) -> bool:
    """Return True if two numbers can be a latitude and a longitude, in either order."""
    one, other = (abs(float(each)) for each in _DECIMAL.findall(pair)[:2])
    return min(one, other) <= 90 and max(one, other) <= 180


def _is_a_place(pair: str) -> bool:
    """Return True if an unlabelled pair of numbers is the latitude and longitude of a place. Both numbers must have
    `_SURE_PLACES` decimal places, or the pair must contain °, N, S, E or W."""
    exact = all(len(each.partition(".")[2]) >= _SURE_PLACES for each in _DECIMAL.findall(pair)[:2])
    return _is_on_the_globe(pair) and (exact or re.search("[°NSEW]", pair) is not None)


def _is_bracketed_address(value: str) -> bool:
    return not re.fullmatch(r"[\d.]+", value) and max(map(int, re.findall(r"\d+", value))) < 256


def _is_kuwaiti(value: str) -> bool:
    """Return True if a Kuwaiti civil number has a possible month and day of birth and a valid check digit (modulus 11
    over eleven digits)."""
    digits = "".join(filter(str.isdigit, value))
    month, day = int(digits[3:5]), int(digits[5:7])
    weighted = sum(weight * int(digit) for weight, digit in zip(_KUWAITI_WEIGHTS, digits, strict=False))
    return 1 <= month <= 12 and 1 <= day <= 31 and 11 - weighted % 11 == int(digits[11])


def _is_vin(value: str) -> bool:
    """Return True if the ninth character of a vehicle identification number is a valid check digit (49 CFR 565)."""
    total = sum(weight * _VIN_VALUES[each] for weight, each in zip(_VIN_WEIGHTS, value.upper(), strict=True))
    return not value.isdigit() and "0123456789X"[total % 11] == value[8].upper()


def _is_zone(value: str) -> bool:
    """Return True if at least two of three check digits in a line of a machine-readable zone are valid: the check
    digits of the document number, the date of birth and the date of expiry (ICAO 9303)."""
    return sum(_zone_digit(value[start:end]) == value[end] for start, end in ((0, 9), (13, 19), (21, 27))) >= 2


def _zone_digit(field: str) -> str:
    values = (0 if each == "<" else int(each, 36) for each in field)
    return str(sum((7, 3, 1)[place % 3] * value for place, value in enumerate(values)) % 10)


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
    "digit": lambda value: any(map(str.isdigit, value)),
    "no date": lambda value: not is_date_or_years(value),
    "Omani phone": is_omani_phone,
    "grouped phone": _is_grouped_phone,
    "credential": _looks_like_a_credential,
    "on the globe": _is_on_the_globe,
    "place": _is_a_place,
    "bracketed address": _is_bracketed_address,
    "country and digits of an IBAN": lambda value: count_of_digits(value) >= 10 and length_of_an_iban(value[:2]) > 0,
    "check digits of an IBAN": lambda value: is_iban(_without_separators(value).upper()),
    "kuwaiti": _is_kuwaiti,
    "vin": _is_vin,
    "mrz": _is_zone,
    "mrz of a card": lambda value: _zone_digit(value[5:14]) == value[14],
    "mac": lambda value: len(set(re.sub(r"\W", "", value).lower())) > 1,
    "base58": _is_base58,
    "bech32": _is_bech32,
}


# --- postal addresses -------------------------------------------------------------------------------------------------

_POSTAL = {name: re.compile(pattern) for name, pattern in section("addresses").items()}


def address_spans(text: str) -> Iterator[Span]:
    """Yield the postal addresses in a normalised text, in reading order, without overlaps. Each contains a street or a
    postcode."""
    last = 0
    for start, end in sorted(_anchors(text)):
        if start < last:
            continue
        before = _POSTAL["before"].search(text, max(last, start - 40), start)
        after = _POSTAL["after"].match(text, end)
        last = after.end() if after else end
        first = before.start() if before else start
        yield Span(first, last, "ADDRESS", value_key("ADDRESS", text[first:last]))


def _anchors(text: str) -> Iterator[tuple[int, int]]:
    for name in ("street", "corner", "postcode"):
        yield from (match.span() for match in _POSTAL[name].finditer(text))
    for name in ("between numbers", "name and number"):
        for match in _POSTAL[name].finditer(text):
            is_cued = _POSTAL["cue"].search(text, max(0, match.start() - 40), match.start()) is not None
            is_next = name == "between numbers" and _POSTAL["next unit or town"].match(text, match.end()) is not None
            if (is_cued or is_next) and _POSTAL["date or law"].search(match.group()) is None:
                yield match.span()
