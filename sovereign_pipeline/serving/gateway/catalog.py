"""Which adapter a request names, as far as its caller may know of it.

What belongs here: looking names up; none is used as a path. What does not: which adapters may be loaded
(`deployment.py`), loading them, and who gets which adapter of a line (`flags/`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from sovereign_pipeline.policy.classification import ClassificationLadder
from sovereign_pipeline.serving.callers import Caller
from sovereign_pipeline.serving.engines.engine import Deployable, Engine
from sovereign_pipeline.serving.flags.in_force import Choice
from sovereign_pipeline.serving.gateway.refusal import Refusal, no_such_model


class Choose(Protocol):
    """Which adapter answers a user of a line; None for none."""

    def __call__(self, line: str, user: str, groups: frozenset[str]) -> Choice | None: ...


@dataclass(frozen=True)
class Visible:
    """An adapter that a caller may ask for."""

    adapter: Deployable
    choice: Choice | None = None
    """What the flag said, where the caller asks for the line and gets what it said."""


@dataclass(frozen=True)
class Catalog:
    """What is served now, by the names under which it is asked for."""

    engine: Engine
    served: Callable[[], Sequence[Deployable]]
    """What was verified last."""
    ladder: ClassificationLadder
    choose: Choose
    counts: Callable[[str, str], bool]
    """Whether what a caller, by its key, asks for a user is compared in a rollout."""

    def find(self, model: str, caller: Caller, user: str | None = None) -> Visible:
        """user: whom a caller asks for, by the word of one that speaks for several.

        Raises Refusal: 404 for what the caller may not know of, 503 for what is not loaded now.
        """
        user = user or None
        found = self.visible(caller, user).get(model)
        if found is None:
            raise no_such_model()
        if found.adapter.digest not in self.engine.loaded():
            raise Refusal(503, "This model is being loaded. Send it again later.", "model_not_loaded", retry_after=10)
        if found.choice is None or user is None or not caller.speaks_for_users(found.adapter.line):
            return found
        return found if self.counts(caller.key, user) else replace(found, choice=self._apart(found, caller))

    def visible(self, caller: Caller, user: str | None = None) -> dict[str, Visible]:
        """Name -> adapter, of everything that a caller may ask for."""
        served = {each.digest: each for each in self.served()}
        names = {
            each.adapter: Visible(each)
            for each in served.values()
            if not each.in_reserve and caller.may_name(each, self.ladder)
        }
        for line in self.lines():
            is_for_user = user is not None and caller.speaks_for_users(line)
            choice = self.choose(line, f"{caller.key}\n{user}" if is_for_user else caller.key, caller.groups)
            if choice is None:
                continue
            for digest in (choice.digest, choice.otherwise):
                adapter = served.get(digest or "")
                if adapter is not None and adapter.line == line and caller.may_use(adapter, self.ladder):
                    names[line] = Visible(adapter, choice if digest == choice.digest else None)
                    break
        return names

    def _apart(self, found: Visible, caller: Caller) -> Choice | None:
        """The same adapter, for one user too many: not compared, and what is reported is the caller's own word."""
        own = self.choose(found.adapter.line, caller.key, caller.groups)
        if found.choice is None or own is None:
            return None
        return replace(found.choice, drawn=False, user=own.user)

    def lines(self) -> frozenset[str]:
        return frozenset(each.line for each in self.served())
