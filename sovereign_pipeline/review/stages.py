"""The one stage of the review room: `blind_review`, what a closed review amounts to, and the gate that it must pass.

How it is made and judged is `building.py`, which reads the registry and so is imported when it is needed: Dagster's
definitions are loaded by every step.
"""

from pathlib import Path

from sovereign_pipeline.artifacts.stage import Built, Gate, Inputs, Stage, Verdict, Workplace
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.registry.stages import REGISTERED_ADAPTER


def blind_review_stage(upstream: Stage) -> Stage:
    """The stage over the registered adapter that was reviewed."""

    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        from sovereign_pipeline.review.building import build_blind_review

        return build_blind_review(upstream, workplace, workspace)

    def evaluate(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
        from sovereign_pipeline.review.building import evaluate_blind_review

        return evaluate_blind_review(upstream, workplace, artifact)

    def external(workplace: Workplace) -> dict[str, str]:
        from sovereign_pipeline.review.building import closed_review_digests

        return closed_review_digests(upstream, workplace)

    return Stage(
        kind="blind_review",
        code_version="2",
        build=build,
        inputs=(upstream,),
        external=external,
        libraries=("evalica", "numpy", "pandas", "scipy"),
        gates=(
            Gate(
                name="net_preference_not_negative",
                question="Did people, not knowing which was which, like the candidate no less than its opponent?",
                code_version="2",
                evaluate=evaluate,
                officer_may=lambda line: line.gates.review.officer_may,
            ),
        ),
    )


BLIND_REVIEW = blind_review_stage(REGISTERED_ADAPTER)
