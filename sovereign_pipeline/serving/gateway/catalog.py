"""Which adapter a request names, as far as its caller may know of it.

What belongs here: looking names up; none is used as a path. What does not: which adapters may be loaded
(`deployment.py`), and loading them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sovereign_pipeline.policy.classification import ClassificationLadder
from sovereign_pipeline.serving.callers import Caller
from sovereign_pipeline.serving.engines.engine import Deployable, Engine
from sovereign_pipeline.serving.gateway.refusal import Refusal, no_such_model


@dataclass(frozen=True)
class Catalog:
    """What is served now, by the names under which it is asked for."""

    engine: Engine
    served: Callable[[], Sequence[Deployable]]
    """What was verified last. A pinned one is in production: it is what its line's name stands for."""
    ladder: ClassificationLadder

    def find(self, model: str, caller: Caller) -> Deployable:
        """Raises Refusal: 404 for what the caller may not know of, 503 for what is not loaded now."""
        found = self.visible(caller).get(model)
        if found is None:
            raise no_such_model()
        if found.digest not in self.engine.loaded():
            raise Refusal(503, "This model is being loaded. Send it again later.", "model_not_loaded", retry_after=10)
        return found

    def visible(self, caller: Caller) -> dict[str, Deployable]:
        """Name -> adapter, of everything that a caller may ask for."""
        names: dict[str, Deployable] = {}
        for each in self.served():
            if caller.may_name(each, self.ladder):
                names.setdefault(each.adapter, each)
            if each.pinned and caller.may_use(each, self.ladder):
                names[each.line] = each
        return names

    def lines(self) -> frozenset[str]:
        return frozenset(each.line for each in self.served())
