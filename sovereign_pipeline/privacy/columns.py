"""Find personal data in columns that are kept, such as case numbers, and read the secret key for column keys."""

import os
import re
import secrets
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.errors import PrivacyError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.policy.personal_data import Kind
from sovereign_pipeline.privacy.identifiers.patterns import DIGITS_OF_A_NATIONAL_ID, count_of_digits
from sovereign_pipeline.privacy.identifiers.recognizers import structured_spans
from sovereign_pipeline.privacy.names.name_patterns import NamePatterns
from sovereign_pipeline.privacy.normalisation import normalise
from sovereign_pipeline.record.stage import KindsIn

SECRET_FILE = "columns.key"
_BYTES_OF_SECRET = 32
# The usual form of ids and case numbers: letters, an optional year or date, and a number of at most six digits.
_FILE_NUMBER = re.compile(r"[A-Z]{0,6}[-/]?(?:(?:19[5-9]\d|20[0-3]\d)(?:[01]\d[0-3]\d)?[-/])?\d{1,6}", re.ASCII)
# What is no part of a number that could be a person's: years, dates, and digests.
_DATES_AND_DIGESTS = re.compile(
    r"(?<!\d)(?:19[5-9]\d|20[0-3]\d)(?:[-/.]?[01]\d(?:[-/.]?[0-3]\d)?)?(?!\d)"
    r"|(?<!\w)(?:[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}|[0-9a-f]{32,64})(?!\w)",
    re.IGNORECASE,
)


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
        if count_of_digits(_DATES_AND_DIGESTS.sub("", text)) >= DIGITS_OF_A_NATIONAL_ID:
            kinds.add("NID")  # over any separators, also with a wrong check digit
        return frozenset(kind for kind in kinds if treatments[kind] != "keep")

    return kinds_in


def column_secret(settings: Settings, *, create: bool) -> bytes:
    """Return the secret of the columns' keys. Raises PrivacyError if the file is missing or invalid.

    Args:
        create: create the secret if there is none.
    """
    path = settings.vault / SECRET_FILE
    if create and not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, aside = tempfile.mkstemp(dir=path.parent)  # 0600
        with os.fdopen(handle, "wb") as stream:
            stream.write(secrets.token_bytes(_BYTES_OF_SECRET))
        with suppress(FileExistsError):  # another process created the secret first
            os.link(aside, path)
        Path(aside).unlink()
    try:
        secret = path.read_bytes()
    except OSError as error:
        raise PrivacyError(
            f"{path}: the secret of the columns' keys cannot be read ({error.strerror}).",
            "Restore the file from the backup of the vault.",
        ) from None
    if len(secret) != _BYTES_OF_SECRET:
        raise PrivacyError(
            f"{path}: this is not the secret of the columns' keys ({len(secret)} bytes).",
            "Restore the file from the backup of the vault.",
        )
    return secret
