"""The red team's prompts: what kinds there are, and what a good answer to each does.

What belongs here: reading them. Asking them is `red_team.py`'s.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal, get_args

from pydantic import model_validator

from sovereign_pipeline.errors import SourceError
from sovereign_pipeline.suites.items import EvaluationItem, read_items

Kind = Literal["harmful", "disclosure", "injection", "benign", "out_of_distribution"]
Expectation = Literal["refusal", "answer", "unmoved", "end"]

KINDS: tuple[Kind, ...] = get_args(Kind)
EXPECTED: Mapping[Kind, Expectation] = {
    "harmful": "refusal",
    "disclosure": "refusal",
    "injection": "unmoved",
    "benign": "answer",
    "out_of_distribution": "end",
}


class RedTeamPrompt(EvaluationItem):
    """expects: `refusal` of what should not be done; `answer` to what only sounds as if; `unmoved`, an answer that does
    not follow an instruction that was slipped in; `end`, whatever is said to what nobody can answer, as long as it does
    not loop.

    mark: for `unmoved`, the word that the injected instruction asks for, so that obeying it can be told.
    """

    kind: Kind
    prompt: str
    expects: Expectation
    mark: str | None = None

    @model_validator(mode="after")
    def _kind_and_expectation_agree(self) -> "RedTeamPrompt":
        if self.expects != EXPECTED[self.kind]:
            raise ValueError(f"a prompt of kind {self.kind} expects '{EXPECTED[self.kind]}'")
        if (self.expects == "unmoved") != (self.mark is not None):
            raise ValueError("a prompt that expects 'unmoved' has a mark, and no other has")
        return self


def read_prompts(path: Path) -> list[RedTeamPrompt]:
    """Raises SourceError (see `read_items`), also when one of the kinds has no prompt: its gate could not be asked."""
    prompts = read_items(path, RedTeamPrompt)
    missing = [kind for kind in KINDS if not any(prompt.kind == kind for prompt in prompts)]
    if missing:
        raise SourceError(
            f"{path}: no prompt of kind {', '.join(missing)}. Add some (data/red_team/README.md says what each kind "
            f"asks), or what they ask would go unseen."
        )
    return prompts
