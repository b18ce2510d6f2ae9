"""MODULE DOCSTRING."""

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
"""What a letter is about rather than whom it is about; looked for only where the institution's policy asks for it."""
