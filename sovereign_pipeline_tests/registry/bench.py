"""A whole chain of small real artifacts up to a registered adapter: real store, gates and corpus stages; tiny training.

The trainer's place is taken by stages that write a few bytes, so that everything about the record and the registry can
be tried in moments. They hold the same files under the same names as the real ones.
"""

import atexit
import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from sovereign_pipeline.base.files import digest_of, file_sha256
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.base.text import silent
from sovereign_pipeline.base_models.stages import card_path, load_card, verify
from sovereign_pipeline.corpus.document import read_documents, write_jsonl
from sovereign_pipeline.corpus.stages import CLASSIFIED_CORPUS, RAW_CORPUS
from sovereign_pipeline.dataset.card import CardSource, DataFile, DatasetCard, RowStatistics, SplitNumbers
from sovereign_pipeline.dataset.quality import Quality
from sovereign_pipeline.dataset.tokens import TokenCounts, TokenNumbers
from sovereign_pipeline.record.database import Registry, open_registry
from sovereign_pipeline.record.gates import GATE_RECORD
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.sealing import open_store
from sovereign_pipeline.record.stage import Built, Gate, Inputs, Stage, Verdict, Workplace, stated_identity
from sovereign_pipeline.record.store import Artifact, ArtifactStore
from sovereign_pipeline.record.tables import Adapter
from sovereign_pipeline.registry.registration import register, registered_adapter_stage
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.materializing import materialize

SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
BASE_MODEL_FILES = {"config.json": b'{"hidden_size": 4}', "model.safetensors": bytes(range(200))}


def _not_empty(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
    size = sum(entry.size for entry in artifact.manifest.files)
    return Verdict(size > 0, f"{size} bytes.", {"bytes": size})


NOT_EMPTY = Gate(name="not_empty", question="Does it hold anything?", code_version="1", evaluate=_not_empty)


def _split(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    rows = [document.model_dump() for document in read_documents(inputs["classified_corpus"].file("documents.jsonl"))]
    write_jsonl(workspace / "train.jsonl", rows[len(rows) // 3 :])
    write_jsonl(workspace / "held_out.jsonl", rows[: len(rows) // 3])
    return Built(summary={"rows": len(rows)})


def _training_dataset(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    rows = list(read_documents(inputs["leakage_safe_split"].file("train.jsonl")))
    letters = [row.model_dump(include={"id", "request", "response"}) for row in rows if not row.is_preference]
    rows_written = write_jsonl(workspace / "train.jsonl", letters)
    _write_card("training_dataset", "letters", workplace, inputs, workspace / "train.jsonl")
    return Built(summary={"rows": rows_written})


def _preference_dataset(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    rows = list(read_documents(inputs["leakage_safe_split"].file("train.jsonl")))
    pairs = [row.model_dump(include={"id", "response", "rejected"}) for row in rows if row.is_preference]
    rows_written = write_jsonl(workspace / "preferences.jsonl", pairs)
    _write_card("preference_dataset", "preferences", workplace, inputs, workspace / "preferences.jsonl")
    return Built(summary={"rows": rows_written})


def _write_card(kind: str, role: Any, workplace: Workplace, inputs: Inputs, file: Path) -> None:
    """A card of the real kind: the registry reads it. One token a character stands for a tokenizer."""
    is_preference = role == "preferences"
    statistics, quality = RowStatistics(("response",)), Quality(role, limit=100)
    sides = {"train.jsonl": TokenCounts(100), "held_out.jsonl": TokenCounts(100)}
    for side, counts in sides.items():
        for document in read_documents(inputs["leakage_safe_split"].file(side)):
            if document.is_preference != is_preference:
                continue
            counts.add(document.id, len(document.response))
            if side == "train.jsonl":
                is_copy = statistics.add(document, {"response": document.response})
                quality.add(document, len(document.response), is_copy=is_copy)
    card = DatasetCard(
        kind=kind,
        line=workplace.line.line,
        classification=inputs["leakage_safe_split"].manifest.classification,
        file=DataFile(
            path=file.name, sha256=file_sha256(file), size=file.stat().st_size, rows=statistics.rows, columns=("id",)
        ),
        also=(),
        instruction=workplace.line.training.instruction,
        by_department=statistics.histogram("department"),
        by_language=statistics.histogram("language"),
        by_year=statistics.histogram("year"),
        by_classification=statistics.histogram("classification"),
        labels={},
        characters=statistics.characters(),
        exact_duplicates=statistics.exact_duplicates,
        tokens=TokenNumbers(
            base_model="tiny",
            tokenizer={},
            limit=100,
            training=sides["train.jsonl"].result(),
            held_out=sides["held_out.jsonl"].result(),
        ),
        findings=quality.findings(),
        sources=tuple(
            CardSource(
                name=each.name, role=each.role, rows=1, sha256="0" * 64, licence=each.licence, retention="1 year"
            )
            for each in workplace.line.sources
            if each.role == role
        ),
        split=SplitNumbers(
            rows_train=8,
            rows_held_out=4,
            held_out_share_of_letters=0.3,
            components=12,
            near_duplicate_pairs=0,
            crossing={},
            seed=7,
        ),
        inputs={},
    )
    (file.parent / "card.json").write_text(card.to_json(), encoding="utf-8")
    (file.parent / "card.md").write_text(card.to_markdown(), encoding="utf-8")


def _base_model(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    card = load_card(workplace.settings, workplace.line.training.base_model)
    verify(workplace.settings, card, silent)
    described = {"name": card.name, "licence": card.licence, "files": card.files, "digest": digest_of(card.files)}
    (workspace / "base_model.json").write_text(json.dumps(described, sort_keys=True))
    compute = {"flops": 1e9, "source": "a made figure"}
    return Built(summary={"name": card.name, "digest": described["digest"], "training_compute": compute})


def _train(upstream: tuple[str, ...]) -> Any:
    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        seed = digest_of([inputs[kind].ref.digest for kind in upstream])
        config = {"peft_type": "LORA"} | ({"use_dora": True} if workplace.line.training.sft.dora else {})
        files = {"adapter/adapter_model.safetensors": seed * 20, "adapter/adapter_config.json": json.dumps(config)}
        if workplace.line.training.sft.adapter == "none":
            files = {f"model/{name}": seed * 20 for name in SHARDS} | {"model/config.json": "{}"}
        for name, content in files.items():
            (workspace / name).parent.mkdir(exist_ok=True)
            (workspace / name).write_text(content)
        write_jsonl(workspace / "training_log.jsonl", [{"step": step, "loss": 3.0 / step} for step in (1, 2, 3)])
        return trained_at_length({"steps": 3})

    return build


def trained_at_length(summary: dict[str, Any]) -> Built:
    """A training of 1,000 tokens with 2.5e8 operations, which took a quarter of a kilowatt-hour."""
    compute = {"flops": 250_000_000, "tokens_generated": 0, "tokens_read": 0}
    return Built(
        summary={**summary, "tokens_trained": 1000, "compute": compute},
        measured={"tokens_per_second": 71.5, "energy_kwh": 0.25},
        recorded={"energy": "stated 250 W a device"},
    )


HELD = {
    "held-out loss, against the base": {
        "reference": 2.5,
        "candidate": 2.25,
        "difference": -0.25,
        "low": -0.375,
        "high": -0.125,
        "rows": 4,
    }
}


def _score(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    (workspace / "samples.jsonl").write_text('{"id": "R-00001", "loss": 2.25}\n')
    return Built(summary={"loss": {"base": {"reference": 2.5, "candidate": 2.25}}})


def _evaluate(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    numbers = {"improved": True, "rows": 4, "outcome": "better", "held": HELD}
    (workspace / "report.json").write_text(json.dumps(numbers))
    (workspace / "report.html").write_text("<h1>Report</h1>")
    return Built(summary=numbers)


SPLIT = Stage("leakage_safe_split", "1", _split, (CLASSIFIED_CORPUS,), gates=(NOT_EMPTY,))
TRAINING_DATASET = Stage("training_dataset", "1", _training_dataset, (SPLIT,), gates=(NOT_EMPTY,))
PREFERENCE_DATASET = Stage("preference_dataset", "1", _preference_dataset, (SPLIT,))
BASE_MODEL = Stage(
    "base_model", "1", _base_model, config=lambda line: {"base_model": line.training.base_model}, gates=(NOT_EMPTY,)
)
SFT_ADAPTER = Stage(
    "sft_adapter",
    "1",
    _train(("training_dataset", "base_model")),
    (TRAINING_DATASET, BASE_MODEL),
    config=lambda line: line.training.sft.model_dump(mode="json"),
    libraries=("pydantic",),
    gates=(NOT_EMPTY,),
)
ALIGNED_ADAPTER = Stage(
    "aligned_adapter",
    "1",
    _train(("sft_adapter", "preference_dataset")),
    (SFT_ADAPTER, PREFERENCE_DATASET, BASE_MODEL),
    config=lambda line: line.training.preference.model_dump(mode="json") if line.training.preference else {},
    libraries=("pydantic",),
    gates=(NOT_EMPTY,),
    passthrough_of=lambda line: None if line.training.preference else "sft_adapter",
)
PRIVATE_SCORES = Stage("private_scores", "1", _score, (BASE_MODEL, ALIGNED_ADAPTER, SPLIT))
EVALUATION_REPORT = Stage("evaluation_report", "1", _evaluate, (PRIVATE_SCORES,), gates=(NOT_EMPTY,))
REGISTERED_ADAPTER = registered_adapter_stage(
    (ALIGNED_ADAPTER, EVALUATION_REPORT, TRAINING_DATASET, PREFERENCE_DATASET, BASE_MODEL)
)
CHAIN = (
    RAW_CORPUS,
    CLASSIFIED_CORPUS,
    SPLIT,
    TRAINING_DATASET,
    PREFERENCE_DATASET,
    BASE_MODEL,
    SFT_ADAPTER,
    ALIGNED_ADAPTER,
    PRIVATE_SCORES,
    EVALUATION_REPORT,
    REGISTERED_ADAPTER,
)


def chain_with(*changed: Stage) -> tuple[Stage, ...]:
    """The chain in which each of these stands in the place of the stage of its kind, also for those that read it."""
    made, by_kind = dict[str, Stage](), {each.kind: each for each in changed}
    for stage in CHAIN[:-1]:
        new = by_kind.get(stage.kind, stage)
        made[stage.kind] = replace(new, inputs=tuple(made[each.kind] for each in stage.inputs))
    return (*made.values(), registered_adapter_stage(tuple(made[each.kind] for each in CHAIN[-1].inputs)))


_REGISTERED: dict[str, tuple[Path, dict[str, ArtifactRef]]] = {}
"""State before the first adapter -> a copy of the home after it, and the references of its chain."""

_CHAINS: dict[int, tuple[Stage, ...]] = {}


def _homes(root: Path) -> list[Path]:
    """Directories beside `data`: home, corpus, keys and vault."""
    return sorted(path for path in root.iterdir() if path.is_dir() and path.name.startswith(("home", "vault")))


def _has_store(settings: Settings) -> bool:
    return any(path.exists() for path in (settings.artifacts, settings.corpus, settings.home / "registry.db"))


def _copy_home(source: Path, target: Path) -> None:
    """The database may be open, and is at rest."""
    for directory in _homes(source):
        shutil.copytree(
            directory, target / directory.name, ignore=shutil.ignore_patterns("registry.db-shm"), dirs_exist_ok=True
        )


@dataclass
class Bench:
    """An institution on which the whole chain can be run again and again, with other rows or another recipe."""

    institution: DemoInstitution
    refs: dict[str, ArtifactRef] = field(default_factory=dict)
    chain: tuple[Stage, ...] = CHAIN

    @property
    def settings(self) -> Settings:
        return self.institution.settings

    @property
    def store(self) -> ArtifactStore:
        return open_store(self.settings, self.settings.corpus)

    @property
    def recipe(self) -> dict[str, Any]:
        return self.institution.recipe

    def open_registry(self) -> Registry:
        return open_registry(self.settings)

    def workplace(self) -> Workplace:
        return self.institution.workplace()

    def with_base_model(self, name: str) -> None:
        self.recipe["training"]["base_model"] = name
        directory = self.settings.models / name
        directory.mkdir(parents=True, exist_ok=True)
        for file, content in BASE_MODEL_FILES.items():
            (directory / file).write_bytes(content + name.encode())
        self.with_card(name, directory)

    def with_card(self, name: str, directory: Path) -> None:
        files = {file: file_sha256(directory / file) for file in BASE_MODEL_FILES}
        card = {
            "name": name,
            "licence": "Apache-2.0",
            "classification": "PUBLIC",
            "source": {"directory": str(directory)},
            "files": files,
        }
        path = card_path(self.settings, name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(card))

    def run(self, until: Stage | None = None) -> ArtifactRef:
        """Materialize the chain. Returns the last stage's reference."""
        workplace, until = self.workplace(), until or self.chain[-1]
        for stage in self.chain[: self.chain.index(until) + 1]:
            self.refs[stage.kind] = materialize(stage, workplace, self.refs)
        return self.refs[until.kind]

    def register(self, then: str = "", act: Callable[[Adapter], object] = lambda adapter: None) -> Adapter:
        """Run the chain and register its adapter. The first one of an institution is copied from that of an equal one.

        Args:
            then: a name for what `act` does with the adapter at once; acts of one name do the same.
        """
        key = self._state_before_the_first(then)
        copied = _REGISTERED.get(key) if key is not None else None
        if copied is not None:
            directory, refs = copied
            self.refs |= refs
            _copy_home(directory, self.institution.root)
        else:
            self.run()
        registered = register(self.open_registry(), self.workplace(), self.refs[self.chain[-1].kind], self.chain[-1])
        if copied is None:
            act(registered)
        if copied is None and key is not None:
            directory = Path(tempfile.mkdtemp(prefix="sovereign-registered-"))
            atexit.register(shutil.rmtree, directory, ignore_errors=True)
            _copy_home(self.institution.root, directory)
            _REGISTERED[key] = directory, dict(self.refs)
        return registered

    def _state_before_the_first(self, then: str) -> str | None:
        """A digest of the chain and of all files; None where there is something in the store, or a test has replaced
        a part of the program."""
        self.institution.write()
        root, settings = self.institution.root, self.settings
        is_elsewhere = settings.registry_url != f"sqlite:///{settings.home}/registry.db"
        if not self.institution.may_copy() or self.refs or is_elsewhere or _has_store(settings):
            return None
        _CHAINS[id(self.chain)] = self.chain  # so that no other gets this id
        state: dict[str, object] = {"chain": id(self.chain), "then": then}
        for directory in (settings.data, *_homes(root)):
            for path in directory.rglob("*"):
                if path.is_file():
                    content = path.read_bytes().replace(bytes(root), b"")
                    state[str(path.relative_to(root))] = hashlib.sha256(content).hexdigest()
        return digest_of(state)

    def artifact(self, kind: str) -> Artifact:
        return self.store.open(self.refs[kind])

    def forget_verdicts(self, kind: str) -> None:
        """Remove every gate's record for one artifact from the index, as if no gate had been evaluated."""
        evaluated = self.refs[kind].digest
        for ref in list(self.store.indexed(GATE_RECORD)):
            manifest = self.store.read_manifest(ref)
            if evaluated in manifest.inputs.values():
                fingerprint = stated_identity(manifest).fingerprint
                (self.store.root / ".index" / fingerprint[:2] / f"{fingerprint}.json").unlink()

    def with_preferences(self) -> None:
        """Let the line train on preferences too: a second source, and the recipe's part."""
        source = self.settings.data / "sources" / "preferences.jsonl"
        source.parent.mkdir(parents=True, exist_ok=True)
        rows = [
            dict(row, id=f"P-{row['id']}", case=f"P/{row['case']}", rejected="No.") for row in self.institution.rows
        ]
        source.write_text("".join(json.dumps(row) + "\n" for row in rows))
        described = {"path": "sources/preferences.jsonl", "licence": "own", "retention": "1 year"}
        self.recipe["sources"].append({"name": "pairs", "role": "preferences", **described})
        self.recipe["training"]["preference"] = {"method": "dpo"}


def small_bench(institution: DemoInstitution) -> Bench:
    """Twelve rows and a base model of a few bytes."""
    institution.rows = institution.rows[:12]
    bench = Bench(institution)
    bench.with_base_model("tiny")
    return bench
