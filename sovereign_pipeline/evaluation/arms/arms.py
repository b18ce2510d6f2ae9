"""MODULE DOCSTRING."""

from collections.abc import Collection
from typing import Literal

# What is scored: the base model, the adapter that the candidate would take the place of, and the candidate. Each of the
# latter two may be a whole model.
Arm = Literal["base", "incumbent", "candidate"]


ARMS: tuple[Arm, ...] = ("base", "incumbent", "candidate")


# What a candidate is held against.
Reference = Literal["base", "incumbent"]


REFERENCES: tuple[Reference, ...] = ("base", "incumbent")


def references_in(values: Collection[Arm]) -> tuple[Reference, ...]:
    """The references among some arms, in the order base, incumbent. values: arms, or what is held by arm."""
    return tuple(reference for reference in REFERENCES if reference in values)
