"""Find personal data in columns that are kept, such as case numbers, and read the secret key for column keys."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from sovereign_pipeline.base.files import read_secret
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.privacy.identifiers.forms import DIGITS_OF_A_NATIONAL_ID, count_of_digits
from sovereign_pipeline.privacy.identifiers.numbers import without_file_numbers
from sovereign_pipeline.privacy.identifiers.recognizers import structured_spans
from sovereign_pipeline.privacy.names.name_patterns import NamePatterns
from sovereign_pipeline.privacy.normalisation import normalise
from sovereign_pipeline.record.stage import KindsIn

SECRET_FILE = "columns.key"
# The usual form of ids and case numbers: letters, an optional year or date, and a number of at most six digits.
_FILE_NUMBER = re.compile(r"[A-Z]{0,6}[-/]?(?:(?:19[5-9]\d|20[0-3]\d)(?:[01]\d[0-3]\d)?[-/])?\d{1,6}", re.ASCII)
_DATE = re.compile(r"(?<!\d)(?:19[5-9]\d|20[0-3]\d)(?:[-/.]?[01]\d(?:[-/.]?[0-3]\d)?)?(?!\d)")


def kinds_in_columns(config: Mapping[str, Any]) -> KindsIn:
    """Return a function that finds the kinds of personal data in a column's value, by patterns and word lists alone.

    Args:
        config: the configuration of the raw corpus, as in its manifest.
    """
    patterns = NamePatterns(config["columns"]["keep_words"])
    treatments: dict[Kind, str] = config["sensitive"]

    @lru_cache(maxsize=1 << 16)
    def kinds_in(value: str) -> frozenset[Kind]:
        if not value:
            return frozenset()
        if _FILE_NUMBER.fullmatch(value):
            letters = value[: next(place for place, each in enumerate(value) if not each.isalpha())]
            is_name = bool(patterns.spans(letters)) and treatments["NAME"] != "keep"
            return frozenset({"NAME"}) if is_name else frozenset()
        text = normalise(value).text
        spans = [*structured_spans(text), *patterns.spans(text)]
        kinds = {span.kind for span in spans}
        if count_of_digits(_DATE.sub("", without_file_numbers(text))) >= DIGITS_OF_A_NATIONAL_ID:
            kinds.add("NID")  # over any separators, also with a wrong check digit
        return frozenset(kind for kind in kinds if treatments[kind] != "keep")

    return kinds_in


def column_secret(settings: Settings, *, create: bool) -> bytes:
    """Return the secret of the columns' keys; see `read_secret`."""
    return read_secret(settings.vault / SECRET_FILE, create=create)
