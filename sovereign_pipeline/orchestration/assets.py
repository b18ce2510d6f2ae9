"""The chain as Dagster assets. Each asset runs one stage, asks its gates, and shows the result on its page.

What belongs here: keys, groups, owners, descriptions. What an asset does is in its room; how it looks is `pages.py`.
"""

import multiprocessing
from collections.abc import Iterator
from typing import Any

import dagster as dg

from sovereign_pipeline.artifacts.gates import evaluate_gates, may_be_waived, recorded_verdict
from sovereign_pipeline.artifacts.manifest import ArtifactRef
from sovereign_pipeline.artifacts.production import produce
from sovereign_pipeline.artifacts.stage import Gate, Stage, Verdict, Workplace
from sovereign_pipeline.artifacts.waiver import read_waiver
from sovereign_pipeline.base_models.stages import BASE_MODEL
from sovereign_pipeline.corpus.stages import CLASSIFIED_CORPUS, RAW_CORPUS
from sovereign_pipeline.dataset.stages import PREFERENCE_DATASET, TRAINING_DATASET
from sovereign_pipeline.errors import SovereignError, place_of
from sovereign_pipeline.evaluation.report.stages import EVALUATION_REPORT
from sovereign_pipeline.evaluation.stages import CAPABILITY_SCORES, PRIVATE_SCORES, RED_TEAM_REPORT
from sovereign_pipeline.orchestration.launching.pipes import launch_with_pipes
from sovereign_pipeline.orchestration.pages.corpus import schema_of
from sovereign_pipeline.orchestration.pages.page import page_of
from sovereign_pipeline.orchestration.partitions import LINES
from sovereign_pipeline.orchestration.publishing import ONCE_JUDGED, ONCE_PASSED
from sovereign_pipeline.orchestration.resources import Installation
from sovereign_pipeline.privacy.stages import SCRUBBED_CORPUS
from sovereign_pipeline.processes import die_with_parent
from sovereign_pipeline.registry.stages import REGISTERED_ADAPTER
from sovereign_pipeline.review.stages import BLIND_REVIEW
from sovereign_pipeline.settings import go_offline
from sovereign_pipeline.split.stages import LEAKAGE_SAFE_SPLIT
from sovereign_pipeline.training.stages import ALIGNED_ADAPTER, SFT_ADAPTER

DEVICE_POOL = "gpu"  # one at a time, whether the device is a GPU or the CPU


def chain_asset(
    stage: Stage, *, group: str, owner: str, kinds: set[str], description: str, pool: str | None = None
) -> dg.AssetsDefinition:
    """The asset of one stage: produce, judge, show. A gate that does not pass is recorded, and stops what is below."""

    @dg.asset(
        name=stage.kind,
        ins={upstream.kind: dg.AssetIn() for upstream in stage.inputs},
        partitions_def=LINES,
        group_name=group,
        owners=[owner],
        kinds=kinds,
        description=description,
        code_version=stage.code_version,
        metadata=schema_of(stage.kind),
        io_manager_key="references",
        pool=pool,
        check_specs=[
            dg.AssetCheckSpec(name=gate.name, asset=stage.kind, description=gate.question, blocking=True)
            for gate in stage.gates
        ],
    )
    def chain_asset_(
        context: dg.AssetExecutionContext, installation: Installation, **inputs: ArtifactRef
    ) -> Iterator[dg.MaterializeResult[ArtifactRef]]:
        go_offline()
        if multiprocessing.parent_process() is not None:
            die_with_parent()  # else a step would go on, on the device, after its run was killed
        try:
            workplace = installation.workplace(
                context.partition_key, context.log.info, launch_with_pipes(context, installation.settings)
            )
            production = produce(stage, workplace, inputs)
            maker = _maker(stage, workplace, inputs)
            verdicts = evaluate_gates(maker, workplace, production.ref)
            checks = [_check_result(gate, workplace, production.ref, verdicts[gate.name]) for gate in maker.gates]
            page = page_of(workplace, production, verdicts)
            if stage.kind in ONCE_JUDGED:
                page |= ONCE_JUDGED[stage.kind](workplace, production.ref)
            if stage.kind in ONCE_PASSED and all(_passes(check) for check in checks):
                page |= ONCE_PASSED[stage.kind](workplace, production.ref)
        except SovereignError as error:
            raise dg.Failure(
                str(error),
                metadata={"error": type(error).__name__, "exit_status": error.exit_status},
                allow_retries=False,
            ) from error
        except Exception as error:
            # A bug. Its own message and traceback may quote a document, and Dagster keeps both.
            raise dg.Failure(
                f"{stage.kind} failed with {place_of(error)}. This is a fault of the program: report it.",
                allow_retries=False,
            ) from None
        yield dg.MaterializeResult(
            value=production.ref,
            data_version=dg.DataVersion(production.ref.digest),
            metadata=page,
            check_results=checks,
        )

    return chain_asset_


def _maker(stage: Stage, workplace: Workplace, inputs: dict[str, ArtifactRef]) -> Stage:
    """The stage that made what this one yields: itself, or the one whose artifact it hands on."""
    passthrough = stage.passthrough_of(workplace.line)
    return stage if passthrough is None else next(each for each in stage.inputs if each.kind == passthrough)


def _check_result(gate: Gate, workplace: Workplace, ref: ArtifactRef, verdict: Verdict) -> dg.AssetCheckResult:
    """What a gate said. Where an officer let the artifact pass it is a warning, so that the run goes on and the page
    still shows that the gate did not."""
    answer = recorded_verdict(gate, workplace, ref)
    shown: dict[str, Any] = {
        "answer": verdict.message,
        "outcome": verdict.outcome,
        "evidence": dg.MetadataValue.json(verdict.evidence),
    }
    description, severity = verdict.message, dg.AssetCheckSeverity.ERROR
    if answer is not None and answer.waiver is not None:
        said = read_waiver(workplace.store.open(answer.waiver))
        shown |= {"let pass by": said.officer, "reason": said.reason, "as": said.kind}
        description, severity = f"{description} {said.officer} let it pass: {said.reason}", dg.AssetCheckSeverity.WARN
    elif not verdict.passed:
        shown["officer may"] = gate.officer_may(workplace.line).replace("_", " ")
        if may_be_waived(gate, workplace, verdict):
            description += " An officer may waive it."
    return dg.AssetCheckResult(
        check_name=gate.name, passed=verdict.passed, severity=severity, description=description, metadata=shown
    )


def _passes(check: dg.AssetCheckResult) -> bool:
    return check.passed or check.severity == dg.AssetCheckSeverity.WARN


CHAIN_ASSETS = [
    chain_asset(
        RAW_CORPUS,
        group="corpus",
        owner="team:records",
        kinds={"jsonl"},
        description=(
            "The line's source files, read row by row into documents. A row that cannot be one goes to quarantine with "
            "its file, row number and reason; above the recipe's share the line stops."
        ),
    ),
    chain_asset(
        CLASSIFIED_CORPUS,
        group="corpus",
        owner="team:records",
        kinds={"jsonl"},
        description=(
            "Every document with the level it inherits: its own, its source's floor, or its case file's, whichever is "
            "highest. A document above the line's ceiling stops the line here, before anything is made of it."
        ),
    ),
    chain_asset(
        SCRUBBED_CORPUS,
        group="corpus",
        owner="team:privacy",
        kinds={"jsonl", "spacy"},
        description=(
            "The documents with personal data replaced by placeholders, numbered within each case file. The originals "
            "go encrypted into the vault, which only the holder of the private key can read."
        ),
    ),
    chain_asset(
        LEAKAGE_SAFE_SPLIT,
        group="corpus",
        owner="team:privacy",
        kinds={"jsonl"},
        description=(
            "Training and held-out side. No case file, near-duplicate or linked row lies on both; at least a tenth of "
            "the letters is held out. The proof is part of the artifact."
        ),
    ),
    chain_asset(
        TRAINING_DATASET,
        group="corpus",
        owner="team:records",
        kinds={"jsonl"},
        description="The training side as instruction, input and output, with its data card. No held-out row is in it.",
    ),
    chain_asset(
        PREFERENCE_DATASET,
        group="corpus",
        owner="team:records",
        kinds={"jsonl"},
        description=(
            "Prompts with a chosen and a rejected reply from the training side. Empty for a line whose recipe has no "
            "preference training."
        ),
    ),
    chain_asset(
        BASE_MODEL,
        group="training",
        owner="team:model-office",
        kinds={"huggingface"},
        description="The open-weight model the line starts from, every file verified against its pinned digest.",
    ),
    chain_asset(
        SFT_ADAPTER,
        group="training",
        owner="team:model-office",
        kinds={"pytorch", "huggingface"},
        description=(
            "Supervised fine-tuning of a LoRA or QLoRA adapter, or of the whole model, on the training dataset, loss "
            "on the reply only, in a process of its own."
        ),
        pool=DEVICE_POOL,
    ),
    chain_asset(
        ALIGNED_ADAPTER,
        group="training",
        owner="team:model-office",
        kinds={"pytorch", "huggingface"},
        description=(
            "The adapter after preference training (DPO against the SFT adapter). For a line without preferences it is "
            "the SFT adapter, handed on as it is."
        ),
        pool=DEVICE_POOL,
    ),
    chain_asset(
        CAPABILITY_SCORES,
        group="evaluation",
        owner="team:evaluation",
        kinds={"lm-eval"},
        description="Multiple-choice suites through lm-eval; base, incumbent and candidate on the same items, paired.",
        pool=DEVICE_POOL,
    ),
    chain_asset(
        PRIVATE_SCORES,
        group="evaluation",
        owner="team:evaluation",
        kinds={"lm-eval"},
        description=(
            "The held-out letters: loss per token of the institution's own reply, and choice of the right reply among "
            "others; base, incumbent and candidate on the same rows, paired."
        ),
        pool=DEVICE_POOL,
    ),
    chain_asset(
        RED_TEAM_REPORT,
        group="evaluation",
        owner="team:security",
        kinds={"pytorch"},
        description="Refusal of harmful, disclosing and injecting prompts, over-refusal of benign ones, paired.",
        pool=DEVICE_POOL,
    ),
    chain_asset(
        EVALUATION_REPORT,
        group="evaluation",
        owner="team:evaluation",
        kinds={"html"},
        description="One page with every score, its interval and the verdict against the recipe's limits.",
    ),
    chain_asset(
        REGISTERED_ADAPTER,
        group="release",
        owner="team:model-office",
        kinds={"sqlite", "mlflow"},
        description=(
            "The adapter's record: version, digests of adapter, datasets and base, libraries, classification, "
            "evaluation, review date. Mirrored into MLflow. The registry only grows."
        ),
    ),
]

REVIEW_ASSETS = [
    chain_asset(
        BLIND_REVIEW,
        group="release",
        owner="team:evaluation",
        kinds={"fastapi"},
        description=(
            "What operators said who did not know which answer was whose: net preference with its interval, criteria, "
            "agreement, guesses, and the ladder of versions. Made when the review is closed."
        ),
    )
]
