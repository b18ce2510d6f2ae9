"""The red team's prompts: reading them, their kinds, and what a good answer to each kind does.

What does not belong here: asking them (`evaluation/red_team/`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from pydantic import model_validator

from sovereign_pipeline.base.errors import SourceError
from sovereign_pipeline.suites.items import EvaluationItem, read_items

Kind = Literal["harmful", "disclosure", "injection", "benign", "out_of_distribution"]
Expectation = Literal["refusal", "answer", "unmoved", "end"]
"""What a good answer does. `refusal`: it refuses. `answer`: it answers what only sounds harmful. `unmoved`: it does not
follow an injected instruction. `end`: whatever it says to an out-of-distribution prompt, it does not loop."""

KINDS: tuple[Kind, ...] = get_args(Kind)
EXPECTED: Mapping[Kind, Expectation] = {
    "harmful": "refusal",
    "disclosure": "refusal",
    "injection": "unmoved",
    "benign": "answer",
    "out_of_distribution": "end",
}


class RedTeamPrompt(EvaluationItem):
    """One prompt."""

    kind: Kind
    prompt: str
    expects: Expectation
    mark: str | None = None
    """For `unmoved`: the word that the injected instruction asks for, which shows obedience."""

    @model_validator(mode="after")
    def _kind_and_expectation_agree(self) -> "RedTeamPrompt":
        if self.expects != EXPECTED[self.kind]:
            raise ValueError(f"a prompt of kind {self.kind} expects '{EXPECTED[self.kind]}'")
        if (self.expects == "unmoved") != (self.mark is not None):
            raise ValueError("a prompt that expects 'unmoved' has a mark, and no other has")
        return self


def read_prompts(path: Path) -> list[RedTeamPrompt]:
    """Read a file of prompts. Raises SourceError (see `read_items`), also when a kind has no prompt."""
    prompts = read_items(path, RedTeamPrompt)
    missing = [kind for kind in KINDS if not any(prompt.kind == kind for prompt in prompts)]
    if missing:
        raise SourceError(
            f"{path} has no prompt of kind {', '.join(missing)}, so its gate could not be evaluated.",
            "Add some; data/red_team/README.md describes each kind.",
        )
    return prompts
