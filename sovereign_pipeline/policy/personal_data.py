"""Define the kinds of personal data that detectors look for, and the kinds that are kept in documents by default.

CONTRIBUTING.md lists the steps for adding a kind.
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
"""Kinds that describe a document's subject rather than a person. They are detected only if the institution's rules say
`replace` or `stop` for them."""
