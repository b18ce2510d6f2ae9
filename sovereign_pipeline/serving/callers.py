"""Who may use what: the caller of a request, and the adapters that are within reach of it.

What belongs here: grants, and comparing them with an adapter. What does not: how a caller shows who it is (`tokens.py`,
`gateway/doorway.py`).
"""

from dataclasses import dataclass
from typing import Protocol

from sovereign_pipeline.policy.classification import ClassificationLadder


class Classified(Protocol):
    """Something of a line, at a level."""

    @property
    def line(self) -> str: ...

    @property
    def classification(self) -> str: ...


@dataclass(frozen=True)
class Grant:
    """What a token or a role gives. Two grants are never added up: a clearance holds for the lines beside it."""

    clearance: str
    lines: frozenset[str] | None
    """None: every line."""
    versions: bool = False
    metrics: bool = False
    admin: bool = False
    users: bool = False
    """Whether it speaks for several people, and says by `user` for whom. Everybody else is one user."""

    def reaches(self, adapter: Classified, ladder: ClassificationLadder) -> bool:
        """Whether the adapter's line and level are within it. A level that the ladder no longer has is above all."""
        if self.clearance not in ladder or adapter.classification not in ladder:
            return False
        in_lines = self.lines is None or adapter.line in self.lines
        return in_lines and not ladder.exceeds(adapter.classification, self.clearance)


@dataclass(frozen=True)
class Caller:
    """Who sent a request."""

    key: str
    """Tells callers apart for limits; never shown, logged or stored."""
    grants: tuple[Grant, ...]
    groups: frozenset[str] = frozenset()
    """What the institution's proxy names as roles, those that grant nothing among them."""

    def may_use(self, adapter: Classified, ladder: ClassificationLadder) -> bool:
        return any(grant.reaches(adapter, ladder) for grant in self.grants)

    def may_name(self, adapter: Classified, ladder: ClassificationLadder) -> bool:
        """Whether the caller may ask for this version by its id."""
        return any(grant.versions and grant.reaches(adapter, ladder) for grant in self.grants)

    @property
    def cache_group(self) -> str:
        """What tells callers of one clearance from those of another, for what an engine keeps of prompts."""
        return "\n".join(sorted({grant.clearance for grant in self.grants}))

    @property
    def may_read_metrics(self) -> bool:
        return any(grant.metrics for grant in self.grants)

    def speaks_for_users(self, line: str) -> bool:
        """Whether the `user` of the caller's requests to a line says who asks."""
        return any(grant.users and (grant.lines is None or line in grant.lines) for grant in self.grants)

    def may_oversee(self, adapter: Classified, ladder: ClassificationLadder) -> bool:
        """Whether the caller may see how it stands with an adapter."""
        return any(grant.admin and grant.reaches(adapter, ladder) for grant in self.grants)

    @property
    def may_administer(self) -> bool:
        """Whether there is a page about what is served for the caller."""
        return any(grant.admin for grant in self.grants)
