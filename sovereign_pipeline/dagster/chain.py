"""List the stages in the order of the chain, with each asset's description and owners."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

from sovereign_pipeline.base_models.stages import BASE_MODEL
from sovereign_pipeline.corpus.stages import CLASSIFIED_CORPUS, RAW_CORPUS
from sovereign_pipeline.dataset.stages import PREFERENCE_DATASET, TRAINING_DATASET
from sovereign_pipeline.evaluation.stages import CAPABILITY_SCORES, EVALUATION_REPORT, PRIVATE_SCORES, RED_TEAM_REPORT
from sovereign_pipeline.privacy.stages import SCRUBBED_CORPUS
from sovereign_pipeline.record.stage import Stage
from sovereign_pipeline.registry.registration import REGISTERED_ADAPTER
from sovereign_pipeline.release.requests import BLIND_REVIEW
from sovereign_pipeline.split.stages import LEAKAGE_SAFE_SPLIT
from sovereign_pipeline.training.stages import ALIGNED_ADAPTER, REWARD_MODEL, SFT_ADAPTER

DEVICE_POOL = "gpu"
"""Pool of the training device (GPU or CPU). One step at a time uses it."""

CHAIN: tuple[Stage, ...] = (
    RAW_CORPUS,
    CLASSIFIED_CORPUS,
    SCRUBBED_CORPUS,
    LEAKAGE_SAFE_SPLIT,
    TRAINING_DATASET,
    PREFERENCE_DATASET,
    BASE_MODEL,
    SFT_ADAPTER,
    REWARD_MODEL,
    ALIGNED_ADAPTER,
    CAPABILITY_SCORES,
    PRIVATE_SCORES,
    RED_TEAM_REPORT,
    EVALUATION_REPORT,
    REGISTERED_ADAPTER,
)

AFTER_PEOPLE: tuple[Stage, ...] = (BLIND_REVIEW,)
"""Stages outside a line's run. Each waits for people, and a sensor materializes it once they are done."""


@dataclass(frozen=True)
class Presentation:
    group: str
    owner: str
    kinds: frozenset[str]
    holds: str

    materializing: str
    """Effect and cost of materializing the asset."""

    pool: str | None = None

    @property
    def description(self) -> str:
        return f"{self.holds}\n\n**Materializing it** {self.materializing}"


PRESENTATION: Mapping[str, Presentation] = {
    "raw_corpus": Presentation(
        "corpus",
        "team:records",
        frozenset({"jsonl"}),
        "The rows of the line's source files, as documents. Invalid rows go to quarantine with file, row number and "
        "reason.",
        "reads every source file of the recipe; seconds. The line stops when a source has more broken rows than the "
        "recipe tolerates.",
    ),
    "classified_corpus": Presentation(
        "corpus",
        "team:records",
        frozenset({"jsonl"}),
        "Every document with its classification level: its own, its source's floor or its case file's, whichever is "
        "highest.",
        "compares levels; seconds. The line stops when a document is above its ceiling, before anything is made of it.",
    ),
    "scrubbed_corpus": Presentation(
        "corpus",
        "team:privacy",
        frozenset({"jsonl", "spacy"}),
        "The documents with personal data replaced by placeholders, numbered within each case file.",
        "searches every text with all detectors, a minute for some thousand documents; texts that were searched before "
        "are cached. The originals go encrypted into the vault, which only the holder of the private key can read.",
    ),
    "leakage_safe_split": Presentation(
        "corpus",
        "team:privacy",
        frozenset({"jsonl"}),
        "The documents by side (training, selection, held out), and the proof that no case file, near-duplicate, "
        "contained text or linked row is on two of them.",
        "compares all documents with each other; seconds for thousands.",
    ),
    "training_dataset": Presentation(
        "corpus",
        "team:records",
        frozenset({"jsonl"}),
        "The training side as instruction, input and output, with its data card. No held-out row is in it.",
        "writes the rows, counts their tokens and looks for evaluation items in them; seconds.",
    ),
    "preference_dataset": Presentation(
        "corpus",
        "team:records",
        frozenset({"jsonl"}),
        "Prompts with a chosen and a rejected reply, or with binary feedback, from the training side. Empty for a line "
        "whose recipe has no preference training.",
        "writes the rows, counts their tokens and looks for evaluation items in them; seconds.",
    ),
    "base_model": Presentation(
        "training",
        "team:model-office",
        frozenset({"huggingface"}),
        "The open-weight model that the line starts from, described by the digest of every file.",
        "reads every byte of the local mirror and compares it with the pinned digests; minutes for a large model.",
    ),
    "sft_adapter": Presentation(
        "training",
        "team:model-office",
        frozenset({"pytorch", "huggingface"}),
        "A LoRA or QLoRA adapter, or a whole model, after supervised fine-tuning on the training dataset.",
        "trains in a process of its own, minutes to days; the log reports each step and what is left. A stopped "
        "training resumes from its last checkpoint.",
        DEVICE_POOL,
    ),
    "reward_model": Presentation(
        "training",
        "team:model-office",
        frozenset({"pytorch", "huggingface"}),
        "A score for replies, learned from the line's preference pairs: a LoRA and a scalar head on the base model, "
        "and what it is worth on held-out pairs. A reward of `training.rlhf` may use it. For a line without one it is "
        "the preference dataset, passed through.",
        "trains in a process of its own, minutes to hours; the log reports each step and what is left. For a line "
        "whose recipe has no `training.reward_model` nothing is done.",
        DEVICE_POOL,
    ),
    "aligned_adapter": Presentation(
        "training",
        "team:model-office",
        frozenset({"pytorch", "huggingface"}),
        "The adapter after learning from preferences or from a reward, such as the line's reward model. For a line "
        "with neither it is the SFT adapter, passed through.",
        "trains in a process of its own, minutes to days; the log reports each step and what is left. For a line "
        "with neither preferences nor a reward nothing is done.",
        DEVICE_POOL,
    ),
    "capability_scores": Presentation(
        "evaluation",
        "team:evaluation",
        frozenset({"lm-eval"}),
        "Scores of the published suites in the recipe; base, incumbent and candidate on the same items, paired.",
        "scores every item with each model; minutes to hours on the device. Scores of the base and the incumbent are "
        "cached.",
        DEVICE_POOL,
    ),
    "private_scores": Presentation(
        "evaluation",
        "team:evaluation",
        frozenset({"lm-eval"}),
        "Scores on the held-out documents: loss per token of the institution's own reply, and choice of the right "
        "reply among others; base, incumbent and candidate on the same rows, paired.",
        "scores every held-out row with each model; minutes on the device. Scores of the base and the incumbent are "
        "cached.",
        DEVICE_POOL,
    ),
    "red_team_report": Presentation(
        "evaluation",
        "team:security",
        frozenset({"pytorch"}),
        "Refusal of harmful, disclosing and injecting prompts, over-refusal of benign ones, and memorisation; "
        "base, incumbent and candidate on the same prompts, paired.",
        "has each model answer every prompt; minutes to hours on the device. Answers of the base and the incumbent are "
        "cached.",
        DEVICE_POOL,
    ),
    "evaluation_report": Presentation(
        "evaluation",
        "team:evaluation",
        frozenset({"html"}),
        "One page with every score, its interval, and the verdict of each gate under the recipe's margins.",
        "computes every figure again from the samples and evaluates the gates; seconds.",
    ),
    "registered_adapter": Presentation(
        "release",
        "team:model-office",
        frozenset({"sqlite", "mlflow"}),
        "The adapter's record: version, digests of adapter, datasets and base model, libraries, classification level, "
        "evaluation, review date.",
        "verifies everything the adapter was made from, gives it the next version, records it in the registry, which "
        "only grows, and mirrors it into MLflow; seconds.",
    ),
    "blind_review": Presentation(
        "release",
        "team:evaluation",
        frozenset({"fastapi"}),
        "The result of a blind comparison by people: net preference with its interval, criteria, agreement, guesses, "
        "and the ladder of versions.",
        "counts the ballots of the closed review; seconds. A sensor starts it when a review is closed.",
    ),
}


def chain_with(replacements: Mapping[str, Stage]) -> tuple[Stage, ...]:
    """Return every stage in order, with the given stages replaced by name. A stage that reads a replaced stage reads
    its replacement. Raises ValueError for an unknown stage name."""
    real = {stage.kind: stage for stage in (*CHAIN, *AFTER_PEOPLE)}
    if unknown := sorted(replacements.keys() - real.keys()):
        raise ValueError(f"no stage has the name {', '.join(unknown)}")
    made: dict[str, Stage] = {}
    for kind, stage in real.items():
        own = replacements.get(kind, stage)
        inputs, optional = (
            tuple(made[each.kind] if each is real.get(each.kind) else each for each in given)
            for given in (own.inputs, own.optional_inputs)
        )
        is_same = inputs == own.inputs and optional == own.optional_inputs
        made[kind] = own if is_same else replace(own, inputs=inputs, optional_inputs=optional)
    return tuple(made.values())
