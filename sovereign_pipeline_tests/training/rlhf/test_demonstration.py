"""The reward of the line `permits-rlhf`, on replies written for it and on the demonstration's own letters."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.policy.rlhf import Rlhf
from sovereign_pipeline.training.rlhf.guards import check_reward
from sovereign_pipeline.training.rlhf.prompts import Prompt, PromptRow
from sovereign_pipeline.training.rlhf.rewards import Reply, Rewards, copy_code

DATA = PROJECT_ROOT / "data"
CHARACTERS = 330
"""About what 64 tokens hold."""
OPENING = "With reference to your letter of 4 May 2024, the Department of Fees and Accounts advises as follows."


@pytest.fixture(scope="module")
def rlhf() -> Rlhf:
    found = Line.model_validate(yaml.safe_load((DATA / "lines" / "permits-rlhf.yaml").read_text())).training.rlhf
    assert found is not None
    return found


@pytest.fixture
def rewards(rlhf: Rlhf, tmp_path: Path) -> Rewards:
    code = copy_code(DATA, rlhf, tmp_path / "code")
    return Rewards(rlhf.reward, code, tmp_path / "code", tmp_path / "cache")


def test_each_part_pays_for_what_it_says_and_for_no_more(rewards: Rewards) -> None:
    wanted: dict[str, tuple[float, float, float]] = {
        f"{OPENING}\nUnder Item 4 of the Schedule of Fees OMR 3 are due.": (1.0, 1.0, 1.0),
        f"{OPENING}\nUnder Item 400 of the Schedule of Fees OMR 3 are due.": (1.0, 1.0, 0.2),
        f"{OPENING}\nUnder Article 4 of the Schedule of Fees OMR 3 are due.": (1.0, 1.0, 0.2),
        f"{OPENING} {OPENING}": (0.0, 1.0, 0.0),
        "Dear Sir, the Directorate of Permits answers.": (0.0, 0.0, 0.0),
        "The Directorate of Permits and the Department of Fees and Accounts": (0.0, 0.0, 0.0),
        "the Department of Fees": (0.0, 0.3, 0.0),
        "": (0.0, 0.0, 0.0),
    }
    found = rewards.judge([Reply("?", text, {"department": "fees"}) for text in wanted])
    for (text, parts), score in zip(wanted.items(), found, strict=True):
        assert tuple(score.parts.values()) == pytest.approx(parts), text


def test_the_institutions_own_replies_score_above_bad_ones(rewards: Rewards, rlhf: Rlhf) -> None:
    check_reward(rewards, prompts(), lambda ids: "".join(map(chr, ids)), CHARACTERS)


def prompts() -> list[Prompt]:
    """Eight letters of each department, a character a token."""
    found = []
    for source in ("permits", "fees", "inspection"):
        lines = (DATA / "sources" / source / "letters.jsonl").read_text(encoding="utf-8").splitlines()
        found += [row for line in lines[:12] if (row := _row(line)) is not None][:8]
    return [Prompt(row, [0], [*map(ord, row.response)]) for row in found]


def _row(line: str) -> PromptRow | None:
    try:
        row: dict[str, Any] = json.loads(line)
    except ValueError:  # the demonstration's sources hold broken rows
        return None
    columns = {"department": row["department"]}
    return PromptRow(id=row["id"], case=row["case"], prompt="?", response=row["reply"], columns=columns)
