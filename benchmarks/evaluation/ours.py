"""Base, incumbent and candidate on every task in one session, through `Models` with its cache, as the stages do it.

    python ours.py --model DIR --tasks DIR --incumbent DIR --candidate DIR --home DIR --answer FILE
        --batch-size N --new-tokens N

--home: of the store that holds cached scores and answers. Started by `run.py`.
"""

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

from benchmarks.harness import trust_demonstration
from sovereign_pipeline.base.files import digest_of, file_sha256
from sovereign_pipeline.base.settings import PROJECT_ROOT, Settings
from sovereign_pipeline.evaluation.arms import Arm
from sovereign_pipeline.evaluation.arms.models import Item, Models, Origin, ScoreCache, open_models
from sovereign_pipeline.record.stage import Workplace
from sovereign_pipeline.training.tuned_model import TunedModel
from sovereign_pipeline.workplace import open_workplace

LINE = "permits-desk"
LEVEL = "PUBLIC"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("--model", "--tasks", "--incumbent", "--candidate", "--home", "--answer"):
        parser.add_argument(name, type=Path, required=True)
    for name in ("--batch-size", "--new-tokens"):
        parser.add_argument(name, type=int, required=True)
    arguments = parser.parse_args()
    started = time.monotonic()
    tuned: dict[Arm, TunedModel] = {
        "incumbent": TunedModel("adapter", arguments.incumbent),
        "candidate": TunedModel("adapter", arguments.candidate),
    }
    cache = ScoreCache(workplace(arguments.home), LEVEL, origins(arguments.model, tuned))
    with open_models(arguments.model, tuned, cache, precision="float32") as models:
        loaded = time.monotonic()
        given = {
            file.stem: {arm: ask(models, file, arm, arguments) for arm in models.arms}
            for file in sorted(arguments.tasks.glob("*.jsonl"))
        }
    answer = {
        "load_seconds": loaded - started,
        "score_seconds": time.monotonic() - loaded,
        "items": cache.measured,
        "given": given,
    }
    arguments.answer.write_text(json.dumps(answer), encoding="utf-8")


def ask(models: Models, file: Path, arm: Arm, arguments: argparse.Namespace) -> dict[str, Any]:
    """Id of the item -> log-likelihoods of its choices, or the text that was generated."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    if "choices" in rows[0]:
        items = [Item(row["id"], row["context"], tuple(row["choices"])) for row in rows]
        return {score.id: list(score.log_likelihoods) for score in models.score(file.stem, items, arm)}
    answers = models.answer([row["context"] for row in rows], arm, arguments.new_tokens, arguments.batch_size)
    return {row["id"]: answer.text for row, answer in zip(rows, answers, strict=True)}


def origins(model: Path, tuned: dict[Arm, TunedModel]) -> dict[Arm, Origin]:
    base = {"base_model": digest_of_directory(model)}
    return {
        "base": Origin(base, LEVEL),
        **{arm: Origin({**base, "tuned": digest_of_directory(each.directory)}, LEVEL) for arm, each in tuned.items()},
    }


def digest_of_directory(directory: Path) -> str:
    return digest_of({file.name: file_sha256(file) for file in sorted(directory.iterdir())})


def workplace(home: Path) -> Workplace:
    """Of the demonstration institution; nothing of the line's recipe is looked at here."""
    data = home / "data"
    if not data.exists():
        shutil.copytree(PROJECT_ROOT / "data", data, ignore=shutil.ignore_patterns("sources", "trust"))
    settings = Settings(home=home, data=data, vault=home / "vault")
    trust_demonstration(settings)
    return open_workplace(settings, LINE)


if __name__ == "__main__":
    main()
