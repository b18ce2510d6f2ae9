"""The evaluation's stages on a base model, an adapter and documents, one artifact after another."""

import datetime
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from sovereign_pipeline.base.files import digest_of
from sovereign_pipeline.base_models.stages import BASE_MODEL, read_descriptor
from sovereign_pipeline.corpus.document import Document, write_documents
from sovereign_pipeline.evaluation.report.report import EvaluationReport
from sovereign_pipeline.evaluation.stages import CAPABILITY_SCORES, EVALUATION_REPORT, PRIVATE_SCORES, RED_TEAM_REPORT
from sovereign_pipeline.record.audit_log import enter_adapter
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.stage import Built, Inputs, Stage, Workplace
from sovereign_pipeline.record.tables import Adapter, BaseModelRow, Dataset
from sovereign_pipeline.split.stages import LEAKAGE_SAFE_SPLIT
from sovereign_pipeline.training.stages import ALIGNED_ADAPTER
from sovereign_pipeline.training.tuned_model import stated_weights
from sovereign_pipeline_tests.evaluation.documents import document
from sovereign_pipeline_tests.materializing import materialize

QUESTIONS = [
    {"id": f"Q{n}", "question": f"What is {n}?", "choices": ["a lamp", "a boat"], "answer": n % 2, "language": "en"}
    for n in range(6)
]


class Chain:
    """Makes the evaluation's artifacts in order, from a base model, an adapter and held-out letters."""

    def __init__(self, workplace: Workplace, tuned: Path, letters: list[Document], holds: str = "adapter") -> None:
        self.workplace = workplace
        self.letters = letters
        self.made: dict[str, ArtifactRef] = {}
        self.stages: dict[str, Stage] = {}
        self.tune(tuned, holds)

    def tune(self, tuned: Path, holds: str = "adapter") -> None:
        """Let this be what was tuned, and everything below it be made from it."""
        aligned = replace(
            self._planted(ALIGNED_ADAPTER, lambda workspace: _trained(tuned, workspace, holds)),
            code_version=f"planted {tuned.name}",
            inputs=(BASE_MODEL,),
        )
        split = self._planted(LEAKAGE_SAFE_SPLIT, self._write_split)
        self.stages = {stage.kind: stage for stage in (BASE_MODEL, aligned, split)}
        for stage in (CAPABILITY_SCORES, PRIVATE_SCORES, RED_TEAM_REPORT, EVALUATION_REPORT):
            inputs = tuple(self.stages[each.kind] for each in stage.inputs)
            self.stages[stage.kind] = replace(stage, inputs=inputs)

    def _write_split(self, workspace: Path) -> None:
        write_documents(workspace / "held_out.jsonl", self.letters)
        write_documents(workspace / "train.jsonl", [document(number) for number in range(16, 32)])

    def make_all(self) -> None:
        for stage in self.stages.values():
            self.made[stage.kind] = materialize(stage, self.workplace, self.made)

    def register(self, version: str, classification: str = "CONFIDENTIAL") -> None:
        """What was tuned last as a row of the registry; what it says of datasets and record is invented."""
        aligned, line = self.made["aligned_adapter"], self.workplace.line.line
        base = read_descriptor(self.workplace.store.open(self.made["base_model"]))
        now = datetime.datetime(2024, 1, 15, tzinfo=datetime.UTC)
        with open_registry(self.workplace.settings).writing() as session:
            session.merge(BaseModelRow(digest=base["digest"], name=base["name"], licence="own", files=[]))
            session.merge(
                Dataset(
                    digest="d" * 64,
                    manifest_sha256="d" * 64,
                    kind="training_dataset",
                    line=line,
                    rows=1,
                    file_sha256="d" * 64,
                    classification="PUBLIC",
                    sources=[],
                    created_at=now,
                    rows_held_out=1,
                    by_classification={"PUBLIC": 1},
                    tokens={},
                    findings={},
                    card_sha256="d" * 64,
                )
            )
            session.flush()
            adapter = Adapter(
                id=f"{line}-{version}",
                line=line,
                version=version,
                adapter_digest=aligned.digest,
                adapter_sha256=stated_weights(self.workplace.store.read_manifest(self.made["aligned_adapter"])),
                manifest_sha256=aligned.manifest_sha256,
                record_digest=digest_of(version),
                record_manifest_sha256="b" * 64,
                dataset_digest="d" * 64,
                base_model=base["name"],
                base_model_digest=base["digest"],
                framework_versions={},
                classification=classification,
                evaluation_report_digest=self.made["evaluation_report"].digest,
                evaluation={},
                method="sft-lora",
                review_date=now.date(),
                registered_at=now,
                code_version="1",
                source_sha256="c" * 64,
                gate_records=[],
            )
            session.add(adapter)
            session.flush()
            enter_adapter(session, adapter, "clerk", {"datasets": {}, "base_models": {}}, ())

    def items(self, ref: ArtifactRef) -> dict[str, float]:
        """How many items of each arm were found in the cache, and how many computed."""
        measured = self.workplace.store.read_manifest(ref).circumstances.measured
        return {name: value for name, value in measured.items() if "_items_" in name}

    def kinds_at(self, level: str) -> set[str]:
        """The kinds of the artifacts that have this classification."""
        manifests = {kind: self.workplace.store.read_manifest(ref) for kind, ref in self.made.items()}
        return {kind for kind, manifest in manifests.items() if manifest.classification == level}

    def report(self) -> EvaluationReport:
        return EvaluationReport.model_validate_json(self.text("evaluation_report", "report.json"))

    def text(self, kind: str, name: str) -> str:
        return self.workplace.store.open(self.made[kind]).file(name).read_text(encoding="utf-8")

    @staticmethod
    def _planted(stage: Stage, fill: Callable[[Path], object]) -> Stage:
        def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
            fill(workspace)
            return Built(summary={}, classification="CONFIDENTIAL")

        return Stage(kind=stage.kind, code_version="planted", build=build)


CUT = tuple(f"L-{number:03d}" for number in range(16, 24))
"""Documents of the training side that were too long to be trained on."""


def _trained(tuned: Path, workspace: Path, holds: str) -> None:
    shutil.copytree(tuned, workspace / holds)
    stored = json.loads((Path(__file__).parents[1] / "training" / "report.json").read_bytes())
    (workspace / "report.json").write_text(json.dumps({**stored, "rows_cut_ids": CUT}))


def jsonl(rows: Sequence[Mapping[str, object]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)
