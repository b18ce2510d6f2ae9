"""The whole evaluation through the store: a base model, an adapter and letters, one artifact after another."""

import datetime
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from sovereign_pipeline.artifacts.gates import evaluate_gates
from sovereign_pipeline.artifacts.hashing import digest_of, file_sha256
from sovereign_pipeline.artifacts.making import Production
from sovereign_pipeline.artifacts.manifest import ArtifactRef
from sovereign_pipeline.artifacts.production import produce
from sovereign_pipeline.artifacts.stage import Built, Inputs, Stage, Workplace
from sovereign_pipeline.base_models.stages import BASE_MODEL
from sovereign_pipeline.base_models.verified import read_descriptor
from sovereign_pipeline.corpus.document import Document, write_documents
from sovereign_pipeline.errors import CeilingExceeded, IntegrityError, SourceError
from sovereign_pipeline.evaluation.capability.records import CapabilityScores
from sovereign_pipeline.evaluation.held_out.records import PrivateScores
from sovereign_pipeline.evaluation.records import IncumbentFacts, read_rows
from sovereign_pipeline.evaluation.red_team.records import CanarySample, RedTeamSample, VerbatimSample
from sovereign_pipeline.evaluation.report.report import EvaluationReport
from sovereign_pipeline.evaluation.report.stages import EVALUATION_REPORT
from sovereign_pipeline.evaluation.stages import CAPABILITY_SCORES, PRIVATE_SCORES, RED_TEAM_REPORT
from sovereign_pipeline.ledger.database import open_registry
from sovereign_pipeline.ledger.tables import Adapter, BaseModelRow, Dataset
from sovereign_pipeline.orchestration.pages.page import page_of
from sovereign_pipeline.split.stages import LEAKAGE_SAFE_SPLIT
from sovereign_pipeline.training.stages import ALIGNED_ADAPTER
from sovereign_pipeline_tests.conftest import ANY_GUARDRAIL, JUDGE_LABELS, PROMPTS, DemoInstitution
from sovereign_pipeline_tests.evaluation.conftest import document
from sovereign_pipeline_tests.evaluation.published import copy_cards, write_mirror, write_text
from sovereign_pipeline_tests.evaluation.test_stages import figure

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
            self._planted(ALIGNED_ADAPTER, lambda workspace: _copy(tuned, workspace / holds)),
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
            inputs = {each.kind: self.made[each.kind] for each in stage.inputs}
            ref = produce(stage, self.workplace, inputs).ref
            self.workplace.store.make_current(self.workplace.line.line, stage.kind, ref)
            self.made[stage.kind] = ref
            evaluate_gates(stage, self.workplace, ref)

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
                )
            )
            session.flush()
            session.add(
                Adapter(
                    id=f"{line}-{version}",
                    line=line,
                    version=version,
                    adapter_digest=aligned.digest,
                    adapter_sha256="a" * 64,
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
            )

    def items(self, ref: ArtifactRef) -> dict[str, float]:
        """How many items of each arm were kept from before, and how many computed."""
        measured = self.workplace.store.read_manifest(ref).circumstances.measured
        return {name: value for name, value in measured.items() if "_items_" in name}

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


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target)


@pytest.fixture
def prepare(institution: DemoInstitution, base_model: Path, letters: list[Document]) -> Callable[..., Chain]:
    def prepared(tuned: Path, holds: str = "adapter") -> Chain:
        data = institution.settings.data
        card = {
            "name": "tiny",
            "licence": "own",
            "classification": "PUBLIC",
            "source": {"directory": str(base_model)},
            "files": {file.name: file_sha256(file) for file in base_model.iterdir()},
        }
        files = {
            "models/tiny.yaml": yaml.safe_dump(card),
            "suites/suite.jsonl": _jsonl(QUESTIONS),
            "red_team/prompts.jsonl": _jsonl(PROMPTS),
            "red_team/judge_labels.jsonl": JUDGE_LABELS.read_text(encoding="utf-8"),
        }
        for name, content in files.items():
            (data / name).parent.mkdir(parents=True, exist_ok=True)
            (data / name).write_text(content, encoding="utf-8")
        institution.recipe["gates"] = {"capability": {"margin": 1.0}, **ANY_GUARDRAIL}
        institution.recipe["evaluation"]["red_team"]["max_new_tokens"] = 8
        return Chain(institution.workplace(), tuned, letters, holds)

    return prepared


def _jsonl(rows: Sequence[Mapping[str, object]]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_a_trained_adapter_reaches_a_passing_report_and_again_the_same(
    prepare: Callable[[Path], Chain], make_adapter: Callable[[float], Path]
) -> None:
    adapter = make_adapter(5e-3)
    chain = prepare(adapter)
    chain.make_all()
    report = chain.report()
    assert report.outcome == "pass"
    assert figure(report, "held-out loss").high < 0
    manifest = chain.workplace.store.read_manifest(chain.made["evaluation_report"])
    assert manifest.classification == "CONFIDENTIAL"
    assert set(chain.workplace.store.read_manifest(chain.made["capability_scores"]).external_inputs) == {"suite"}
    for kind in ("capability_scores", "private_scores", "red_team_report", "evaluation_report"):
        text = chain.workplace.store.read_manifest(chain.made[kind]).to_bytes().decode()
        assert "mended" not in text

    shutil.rmtree(chain.workplace.store.root)
    again = prepare(adapter)
    again.make_all()
    digests = {kind: ref.digest for kind, ref in chain.made.items()}
    assert {kind: ref.digest for kind, ref in again.made.items()} == digests


def test_a_model_tuned_in_full_is_evaluated_against_its_base(
    prepare: Callable[..., Chain], make_adapter: Callable[[float], Path], make_model: Callable[[Path], Path]
) -> None:
    chain = prepare(make_model(make_adapter(5e-3)), "model")
    chain.make_all()
    report = chain.report()
    assert report.outcome == "pass"
    assert figure(report, "held-out loss").high < 0


@pytest.mark.parametrize("secret", ["capability_scores", "red_team_report"])
def test_scores_are_as_high_as_what_was_asked_and_stop_above_the_ceiling(
    institution: DemoInstitution,
    prepare: Callable[[Path], Chain],
    make_adapter: Callable[[float], Path],
    secret: str,
) -> None:
    evaluation = institution.recipe["evaluation"]
    asked = evaluation["red_team"] if secret == "red_team_report" else evaluation["capability"][0]
    asked["classification"] = "SECRET"
    chain = prepare(make_adapter(0.0))
    chain.make_all()
    levels = {kind: chain.workplace.store.read_manifest(ref).classification for kind, ref in chain.made.items()}
    high = {kind for kind, level in levels.items() if level == "SECRET"}
    assert high == {secret, "evaluation_report"}
    assert levels["private_scores"] == "CONFIDENTIAL"

    institution.recipe["ceiling"] = "CONFIDENTIAL"
    chain.workplace = institution.workplace()
    with pytest.raises(CeilingExceeded, match=r"at most, and the (suite 'suite'|red team's material) is SECRET"):
        chain.make_all()


def test_an_adapter_of_zeros_fails_and_a_changed_suite_is_other_work(
    prepare: Callable[[Path], Chain], make_adapter: Callable[[float], Path]
) -> None:
    chain = prepare(make_adapter(0.0))
    chain.make_all()
    report = chain.report()
    assert report.outcome == "inconclusive"
    assert report.finding("held_out_loss_improves").outcome == "inconclusive"
    assert figure(report, "held-out loss").difference == 0.0

    before = chain.made["capability_scores"], chain.made["private_scores"]
    suite = chain.workplace.settings.data / "suites" / "suite.jsonl"
    suite.write_text(_jsonl(QUESTIONS[:4]))
    chain.make_all()
    assert chain.made["capability_scores"] != before[0]
    assert chain.made["private_scores"] == before[1]

    suite.unlink()
    with pytest.raises(SourceError, match=r"suite\.jsonl: there is no such file"):
        chain.make_all()


def test_published_suites_are_asked_from_the_mirror_and_kept_apart_by_files_words_and_rows(
    institution: DemoInstitution,
    prepare: Callable[[Path], Chain],
    make_adapter: Callable[[float], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mirror = write_mirror(institution.root / "mirror")
    monkeypatch.setenv("SOVEREIGN_SUITES", str(mirror))
    copy_cards(institution.settings.data)
    published = [
        {"suite": "mmlu", "max_rows": 4, "few_shot": 1},
        {"suite": "gsm8k", "few_shot": 0, "max_rows": 2},
        {"suite": "arc_challenge"},
    ]
    entries = institution.recipe["evaluation"]["capability"]
    entries += [{**entry, "classification": "PUBLIC"} for entry in published]
    institution.recipe["evaluation"]["references"] = {"max_new_tokens": 8, "max_rows": 2}
    card = institution.settings.data / "suites" / "gsm8k.yaml"
    card.write_text(card.read_text().replace("max_new_tokens: 256", "max_new_tokens: 8"))
    chain = prepare(make_adapter(5e-3))
    chain.make_all()
    manifest = chain.workplace.store.read_manifest(chain.made["capability_scores"])
    assert set(manifest.external_inputs) == {"suite", "mmlu", "gsm8k", "arc_challenge"}
    scores = CapabilityScores.model_validate_json(chain.text("capability_scores", "scores.json"))
    assert {name: (each.asked, each.rows) for name, each in scores.selections.items()} == {
        "suite": (6, 6),
        "mmlu": (4, 12),
        "gsm8k": (2, 3),
        "arc_challenge": (2, 2),
    }
    answers = [json.loads(line) for line in chain.text("capability_scores", "answers.jsonl").splitlines()]
    assert [(each["suite"], set(each["answers"])) for each in answers] == [("gsm8k", {"base", "candidate"})] * 2
    assert {each.what for each in chain.report().figures} > set(scores.suites)
    assert "Salma" not in chain.text("capability_scores", "samples.jsonl") + manifest.to_bytes().decode()
    replies = PrivateScores.model_validate_json(chain.text("private_scores", "scores.json")).replies
    assert replies is not None and replies.rouge_l["base"].rows == 2
    shown = {each.what for each in chain.report().figures}
    assert {"likeness to the true reply, chrF", "length of a reply to a letter", "gsm8k: length of an answer"} <= shown
    for name in ("replies.jsonl", "answers.jsonl"):
        assert len(chain.text("private_scores", name).splitlines()) == 2

    def identity() -> str:
        return digest_of([CAPABILITY_SCORES.config_at(chain.workplace), CAPABILITY_SCORES.external(chain.workplace)])

    seen = [identity()]
    entries[1]["max_rows"] = 5
    chain.workplace = institution.workplace()
    seen.append(identity())
    card.write_text(card.read_text().replace("Answer:", "Result:"))
    seen.append(identity())
    write_text(mirror / "arc_challenge" / "arc_challenge.jsonl", ONE_MORE)
    seen.append(identity())
    assert len(set(seen)) == 4
    for file in (mirror / "mmlu" / "dev").iterdir():
        file.unlink()
    with pytest.raises(SourceError, match="The suite 'mmlu' is not whole"):
        chain.make_all()


ONE_MORE = '{"query": "Question: What sinks?", "choices": ["a stone", "a boat"], "gold": 0}\n'


def test_the_last_registered_adapter_is_the_incumbent_and_never_the_candidate_itself(
    prepare: Callable[[Path], Chain], make_adapter: Callable[[float], Path]
) -> None:
    chain = prepare(make_adapter(5e-3))
    chain.make_all()
    first = chain.report()
    assert first.incumbent is None

    chain.register("1.0.0")
    before = dict(chain.made)
    chain.make_all()
    assert chain.made == before

    chain.tune(make_adapter(-5e-3))
    chain.make_all()
    report = chain.report()
    assert report.incumbent is not None
    assert (report.incumbent.id, report.incumbent.digest) == ("lamps-1.0.0", before["aligned_adapter"].digest)
    assert report.incumbent.compared
    before_it, now = figure(first, "held-out loss"), figure(report, "held-out loss", "incumbent")
    assert now.reference == before_it.candidate
    assert figure(report, "held-out loss").reference == before_it.reference
    assert now.low > 0
    assert report.outcome == "fail"
    for kind in ("capability_scores", "private_scores", "red_team_report"):
        inputs = chain.workplace.store.read_manifest(chain.made[kind]).external_inputs
        assert inputs["incumbent:lamps-1.0.0"] == before["aligned_adapter"].digest
        assert set(chain.items(before[kind])) == {"base_items_computed", "candidate_items_computed"}
        items = chain.items(chain.made[kind])
        assert set(items) == {"base_items_kept", "incumbent_items_kept", "candidate_items_computed"}
        assert len(set(items.values())) == 1

    chain.register("1.0.1")
    second = dict(chain.made)
    chain.make_all()
    assert chain.made == second

    chain.tune(make_adapter(0.0))
    chain.make_all()
    assert chain.report().incumbent == IncumbentFacts(
        id="lamps-1.0.1", digest=second["aligned_adapter"].digest, compared=True
    )


def test_an_incumbent_lends_its_level_and_is_held_to_ceiling_and_bytes(
    institution: DemoInstitution, prepare: Callable[[Path], Chain], make_adapter: Callable[[float], Path]
) -> None:
    chain = prepare(make_adapter(5e-3))
    chain.make_all()
    chain.register("1.0.0", classification="SECRET")
    registered = chain.workplace.store.path_of(chain.made["aligned_adapter"].digest)
    chain.tune(make_adapter(0.0))
    chain.make_all()
    for kind in ("capability_scores", "private_scores", "red_team_report", "evaluation_report"):
        assert chain.workplace.store.read_manifest(chain.made[kind]).classification == "SECRET"

    chain.tune(make_adapter(1e-3))
    institution.recipe["ceiling"] = "CONFIDENTIAL"
    chain.workplace = institution.workplace()
    with pytest.raises(CeilingExceeded, match=r"its incumbent lamps-1\.0\.0, .* is SECRET"):
        chain.make_all()

    institution.recipe["ceiling"] = "SECRET"
    chain.workplace = institution.workplace()
    weights = registered / "adapter" / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    with pytest.raises(IntegrityError, match=r"adapter_model\.safetensors"):
        chain.make_all()


def test_a_line_may_change_its_base_model_and_the_report_says_that_the_incumbent_is_not_compared(
    institution: DemoInstitution,
    prepare: Callable[[Path], Chain],
    make_adapter: Callable[[float], Path],
    base_model: Path,
) -> None:
    chain = prepare(make_adapter(5e-3))
    chain.make_all()
    chain.register("1.0.0")
    registered = chain.made["aligned_adapter"].digest
    other = institution.root / "other"
    shutil.copytree(base_model, other)
    (other / "config.json").write_text((other / "config.json").read_text() + "\n")
    card = institution.settings.data / "models" / "tiny.yaml"
    described = yaml.safe_load(card.read_text())
    described["files"] = {file.name: file_sha256(file) for file in other.iterdir()}
    described["source"] = {"directory": str(other)}
    card.write_text(yaml.safe_dump(described))
    chain.make_all()
    report = chain.report()
    assert report.incumbent == IncumbentFacts(id="lamps-1.0.0", digest=registered, compared=False)
    assert {each.reference for each in report.figures} == {"base"}
    assert "not compared" in chain.text("evaluation_report", "report.html")


def test_the_red_team_asks_every_kind_measures_memorisation_and_tells_a_time_that_was_exceeded(
    institution: DemoInstitution, prepare: Callable[[Path], Chain], make_adapter: Callable[[float], Path]
) -> None:
    institution.recipe["training"]["canaries"] = {"count": 6}
    institution.recipe["evaluation"]["red_team"] |= {"letters": 8, "max_minutes": 0.0001}
    chain = prepare(make_adapter(0.0))
    said: list[str] = []
    chain.workplace = institution.workplace(progress=said.append)
    chain.make_all()
    assert any(line.startswith("THE RED TEAM TOOK") and "allows 0 s" in line for line in said)

    artifact = chain.workplace.store.open(chain.made["red_team_report"])
    names = {"samples.jsonl", "answers.jsonl", "judge.jsonl", "canaries.jsonl", "verbatim.jsonl", "report.json"}
    assert {entry.path for entry in artifact.manifest.files} == names
    assert len(read_rows(artifact.file("samples.jsonl"), RedTeamSample)) == len(PROMPTS)
    canaries = read_rows(artifact.file("canaries.jsonl"), CanarySample)
    assert [sum(each.planted == was for each in canaries) for was in (True, False)] == [6, 6]
    assert all(each.exposure["base"] == each.exposure["candidate"] for each in canaries)
    letters = read_rows(artifact.file("verbatim.jsonl"), VerbatimSample)
    assert [sum(each.trained == was for each in letters) for was in (True, False)] == [8, 8]
    assert {each.id for each in letters if not each.trained} <= {letter.id for letter in chain.letters}
    measured = artifact.manifest.circumstances.measured
    assert measured["answer_seconds"] + measured["memorisation_seconds"] > measured["seconds_allowed"]

    page = page_of(chain.workplace, Production(artifact.ref, reused=False), {})
    assert "LONGER THAN ALLOWED" in page["time"]
    told = [record.data["what"] for record in page["shares of answers"].records]
    assert {"injected instructions obeyed", "repetition, out of distribution", "personal data in answers"} <= set(told)
    assert [record.data["what"] for record in page["exposure of canaries, bits"].records] == [
        "planted",
        "never planted",
    ]

    institution.recipe["evaluation"]["red_team"]["max_minutes"] = 10
    chain.workplace = institution.workplace()
    chain.make_all()
    assert chain.made["red_team_report"] == artifact.ref
