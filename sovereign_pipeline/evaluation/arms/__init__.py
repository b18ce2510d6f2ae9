"""Define the arms of a comparison, and compute their scores and answers.

Keep only code that decides a score in this package: a cached score is identified by the digest of this package's
sources.
"""

from collections.abc import Collection
from typing import Literal

Arm = Literal["base", "incumbent", "candidate"]
"""The arms: the base model, the adapter in use (incumbent), and the adapter that would replace the incumbent
(candidate). Incumbent and candidate may also be models tuned in full."""
ARMS: tuple[Arm, ...] = ("base", "incumbent", "candidate")
Reference = Literal["base", "incumbent"]
"""An arm that a candidate is compared with."""
REFERENCES: tuple[Reference, ...] = ("base", "incumbent")


def references_in(values: Collection[Arm]) -> tuple[Reference, ...]:
    """Return the references among `values` (arms, or a mapping by arm), in the order base, incumbent."""
    return tuple(reference for reference in REFERENCES if reference in values)
