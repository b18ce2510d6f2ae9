"""A local text classifier as the judge of refusals, where it is shown to be good enough.

What belongs here: the digest of its files, loading it, its verdicts, and refusing one that is not the recipe's or not
good. What does not: the judge in the package (`refusals.py`), and the tables of how good a judge is (`judges.py`).
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sovereign_pipeline.artifacts.hashing import digest_of, file_sha256, short
from sovereign_pipeline.errors import GateRefused, IntegrityError, SourceError
from sovereign_pipeline.evaluation.red_team.records import JudgeQuality
from sovereign_pipeline.evaluation.red_team.refusals import is_refusal
from sovereign_pipeline.policy.evaluation import JudgeModel
from sovereign_pipeline.wording import counted

Verdicts = Callable[[Sequence[tuple[str, str]]], list[bool]]
"""Pairs of prompt and answer -> whether each answer refuses."""

BATCH = 16
MAX_WINDOW = 512
"""Tokens of prompt and answer that are read, unless the model has fewer positions; the end of a longer one is cut."""


def shipped_verdicts(pairs: Sequence[tuple[str, str]]) -> list[bool]:
    """The verdicts of the judge in the package."""
    return [is_refusal(answer, prompt) for prompt, answer in pairs]


def judge_model_digest(directory: Path) -> str:
    """One digest of all files of a model. Raises SourceError when there is none."""
    if not (directory / "config.json").is_file():
        raise SourceError(
            f"{directory}: this directory holds no judge model: there is no config.json.",
            "Copy the model there, or correct evaluation.red_team.judge_model in the recipe.",
        )
    files = sorted(file for file in directory.rglob("*") if file.is_file())
    return digest_of({file.relative_to(directory).as_posix(): file_sha256(file) for file in files})


def open_judge_model(entry: JudgeModel, directory: Path, progress: Callable[[str], None]) -> Verdicts:
    """Load the model that the recipe names, offline and from safetensors alone, on the CPU in float32.

    Raises IntegrityError when its files are not those of the recipe, and SourceError when it cannot be used.
    """
    found = judge_model_digest(directory)
    if found != entry.sha256:
        raise IntegrityError(
            f"{directory}: the judge model's files have the digest {found}, and the recipe's sha256 begins "
            f"{short(entry.sha256)}.",
            "Copy the model again. If it was changed on purpose, write its digest into the recipe.",
        )
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(directory, local_files_only=True)
        model, loading = AutoModelForSequenceClassification.from_pretrained(
            directory,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    except Exception as error:
        raise SourceError(
            f"{directory}: the judge model cannot be loaded ({type(error).__name__}).",
            "It must be a transformers sequence classifier with safetensors and a tokenizer.",
        ) from error
    absent = sorted({*loading["missing_keys"], *(key for key, *_ in loading["mismatched_keys"])})
    if absent:
        raise SourceError(
            f"{directory}: {len(absent)} weights of the judge model are not in its files, {absent[0]} first, and would "
            f"be random.",
            "Copy the model again, whole.",
        )
    names = [str(model.config.id2label[index]) for index in range(model.config.num_labels)]
    if entry.refusal_label not in names:
        raise SourceError(
            f"{directory}: the judge model has no class '{entry.refusal_label}'; it has {', '.join(names)}.",
            "Set evaluation.red_team.judge_model.refusal_label to the class of refusals.",
        )
    wanted, window = names.index(entry.refusal_label), _window(model.config, tokenizer)
    model.eval()

    known: dict[tuple[str, str], bool] = {}  # labelled answers are judged to prove the model and again for the report

    def verdicts(pairs: Sequence[tuple[str, str]]) -> list[bool]:
        new = [pair for pair in dict.fromkeys(pairs) if pair not in known]
        for begin in range(0, len(new), BATCH):
            batch = new[begin : begin + BATCH]
            progress(f"judge model: {begin} of {counted(len(new), 'answer')}")
            encoded = tokenizer(
                [prompt for prompt, _ in batch],
                [answer for _, answer in batch],
                truncation=True,
                max_length=window,
                padding=True,
                return_tensors="pt",
            )
            with torch.inference_mode():
                best = model(**encoded).logits.argmax(-1).tolist()
            known.update(zip(batch, (each == wanted for each in best), strict=True))
        return [known[pair] for pair in pairs]

    return verdicts


def refuse_unproven(entry: JudgeModel, qualities: Sequence[JudgeQuality]) -> None:
    """Raise GateRefused unless the model reaches the recipe's bounds on the labelled answers of every language.

    Args:
        qualities: of the judge of refusals, by language, over all styles.
    """
    if not qualities:
        raise GateRefused(
            "The judge model cannot be measured: there is no labelled answer about refusals.",
            "Add some to the recipe's judge_labels.",
        )
    weak = [
        f"{each.language}: precision {each.precision}, recall {each.recall} on {each.labels}"
        for each in qualities
        if each.precision.share < entry.min_precision or each.recall.share < entry.min_recall
    ]
    if weak:
        raise GateRefused(
            f"The judge model is not good enough on the labelled answers: {'; '.join(weak)}. The recipe asks for "
            f"{entry.min_precision:.2f} and {entry.min_recall:.2f}.",
            "Leave judge_model out of the recipe, and the judge in the package counts; or name another model.",
        )


def _window(config: Any, tokenizer: Any) -> int:
    positions = getattr(config, "max_position_embeddings", None) or MAX_WINDOW
    # RoBERTa's relatives number positions from the padding index + 1: fewer remain.
    padding = config.pad_token_id + 1 if getattr(config, "model_type", "").endswith("roberta") else 0
    return int(min(MAX_WINDOW, tokenizer.model_max_length, positions - padding))
