"""The arms of a comparison, their scores and their answers.

Keep only what decides a score here: a cached score is identified by the digest of this package's sources.
"""

from collections.abc import Collection
from typing import Literal

Arm = Literal["base", "incumbent", "candidate"]
"""The base model, the adapter in use, and the adapter that would replace it. The latter two may be whole models."""
ARMS: tuple[Arm, ...] = ("base", "incumbent", "candidate")
Reference = Literal["base", "incumbent"]
"""An arm that a candidate is compared with."""
REFERENCES: tuple[Reference, ...] = ("base", "incumbent")


def references_in(values: Collection[Arm]) -> tuple[Reference, ...]:
    """The references among some arms, in the order base, incumbent. `values`: arms, or a mapping by arm."""
    return tuple(reference for reference in REFERENCES if reference in values)
