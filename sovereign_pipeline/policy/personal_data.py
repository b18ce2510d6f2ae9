"""The kinds of personal data that detectors look for, and which of them stay in a document by default.

What belongs here: the names of the kinds. What does not: how a kind is found (`privacy/`), and what an institution
does with it (`institution.py`).
"""

from typing import Literal, get_args

Kind = Literal[
    "NAME",
    "NID",
    "RESIDENT_CARD",
    "PASSPORT",
    "ACCOUNT",
    "IBAN",
    "CARD",
    "PHONE",
    "EMAIL",
    "ADDRESS",
    "PO_BOX",
    "CR",
    "PLATE",
    "DATE_OF_BIRTH",
    "SSN",
    "DRIVING_LICENCE",
    "IP",
    "URL",
    "PLACE",
    "ORGANISATION",
    "NATIONALITY",
    "DATE",
    "AGE",
]

KINDS: tuple[Kind, ...] = get_args(Kind)

KEPT_BY_DEFAULT: frozenset[Kind] = frozenset({"URL", "PLACE", "ORGANISATION", "NATIONALITY", "DATE", "AGE"})
"""What a document is about rather than whom; detected only where the institution's policy does not keep it."""
