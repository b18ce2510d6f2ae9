"""Define the kinds of personal data that detectors look for, and the kinds that are kept in documents by default.

A new kind needs three changes. `sovereign_pipeline_tests/privacy/test_kinds.py` reports a missing one:

1. in this module, its name in `Kind`, at its place in the order of precedence, and in `KEPT_BY_DEFAULT` if it is kept;
2. in `privacy/identifiers/`, a row in `forms.toml` or `labels.json`;
3. in `privacy/canaries.json`, a planted value in each canary, unless the kind is kept by default.

Then raise the `code_version` of `scrubbed_corpus` (`privacy/stages.py`), because the same documents now result in other
bytes, and run `make docs`.
"""

from typing import Literal, get_args

# In order of precedence: if two findings overlap and are equally certain, the kind that is listed first wins.
Kind = Literal[
    "CREDENTIAL",
    "EMAIL",
    "IBAN",
    "IP",
    "COORDINATES",
    "SSN",
    "DRIVING_LICENCE",
    "NID",
    "RESIDENT_CARD",
    "PASSPORT",
    "CR",
    "DATE_OF_BIRTH",
    "ADDRESS",
    "PO_BOX",
    "PLATE",
    "PHONE",
    "CARD",
    "ACCOUNT",
    "URL",
    "NAME",
    "AGE",
    "DATE",
    "ORGANISATION",
    "PLACE",
    "NATIONALITY",
]

KINDS: tuple[Kind, ...] = get_args(Kind)

KEPT_BY_DEFAULT: frozenset[Kind] = frozenset({"URL", "PLACE", "ORGANISATION", "NATIONALITY", "DATE", "AGE"})
"""Kinds that describe a document's subject rather than a person. They are detected only if an institution's rules
replace them or stop the line at them."""
