"""What would stop `capability_scores`, found when a recipe is checked and before any model is loaded."""

from sovereign_pipeline.policy.evaluation import CapabilitySuite
from sovereign_pipeline.sandbox.sandbox import require_sandbox
from sovereign_pipeline.settings import Settings
from sovereign_pipeline.suites.cards import CodeTask
from sovereign_pipeline.suites.suites import open_suite


def check_suite(settings: Settings, entry: CapabilitySuite) -> None:
    """Raise what would stop the evaluation at this suite: files, card, examples, and a sandbox for code."""
    if entry.suite is not None and isinstance(open_suite(settings, entry, seed=0).task, CodeTask):
        require_sandbox()
