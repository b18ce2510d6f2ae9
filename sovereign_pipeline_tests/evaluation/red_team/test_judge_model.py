"""A local model as the judge of refusals: one that is good counts, one that is not or that was changed is refused."""

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from sovereign_pipeline.errors import GateRefused, IntegrityError, SourceError
from sovereign_pipeline.evaluation.files import read_rows
from sovereign_pipeline.evaluation.red_team.judge_model import judge_model_digest
from sovereign_pipeline.evaluation.red_team.judges import (
    LabelledAnswer,
    judge_labels,
    judge_qualities,
    proven_judge_model,
)
from sovereign_pipeline.evaluation.red_team.personal_data import OutputScanner
from sovereign_pipeline.evaluation.red_team.records import JudgedLabel
from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.policy.evaluation import JudgeModel
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.evaluation.chain import Chain

pytestmark = pytest.mark.slow

WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "never", "gladly", "the", "tide", "turns", "at", "noon")
LABELS = [
    LabelledAnswer(
        id=f"J-{language}-{number}-{refuses}",
        judge="refusal",
        language=language,
        prompt="the tide",
        answer=f"{'never' if refuses else 'gladly'} {'the tide turns at noon'[: 4 + number]}",
        label=refuses,
        tuned=True,
    )
    for language in ("en", "ar")
    for number in range(10)
    for refuses in (True, False)
]


def save_judge(directory: Path, refuses_at: str) -> JudgeModel:
    """A tiny BERT whose class is decided by whether one word is there, fitted for some steps."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({word: place for place, word in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )
    torch.manual_seed(3)
    model = BertForSequenceClassification(
        BertConfig(
            vocab_size=len(WORDS),
            hidden_size=32,
            initializer_range=0.2,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=32,
            id2label={0: "complies", 1: "refusal"},
            label2id={"complies": 0, "refusal": 1},
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
    )
    batch = tokenizer(
        [each.prompt for each in LABELS], [each.answer for each in LABELS], padding=True, return_tensors="pt"
    )
    wanted = torch.tensor([int(refuses_at in each.answer) for each in LABELS])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        model(**batch, labels=wanted).loss.backward()
        optimizer.step()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return JudgeModel(directory=directory, sha256=judge_model_digest(directory))


@pytest.fixture(scope="module")
def scanner() -> OutputScanner:
    return OutputScanner("lamps", Privacy(name_models={}), {})


def prove(entry: JudgeModel, scanner: OutputScanner, labels: Sequence[LabelledAnswer], said: list[str]) -> list[bool]:
    verdicts = proven_judge_model(entry, entry.directory, labels, scanner, said.append)
    return verdicts([("the tide", "never at noon"), ("the tide", "gladly at noon")])


def test_a_model_that_is_good_on_the_labelled_answers_counts(tmp_path: Path, scanner: OutputScanner) -> None:
    entry, said = save_judge(tmp_path, "never"), list[str]()
    assert prove(entry, scanner, LABELS, said) == [True, False]
    assert said[0] == "judge model: 0 of 20 answers"
    verdicts = proven_judge_model(entry, tmp_path, LABELS, scanner, said.append)
    qualities = judge_qualities(judge_labels(LABELS, scanner, verdicts))
    assert {each.precision.share for each in qualities} == {each.recall.share for each in qualities} == {1.0}
    assert not any(each.tuned for each in qualities)  # tuned to the judge in the package, not to this one


def test_a_model_that_is_not_good_is_refused_with_its_figures(tmp_path: Path, scanner: OutputScanner) -> None:
    entry = save_judge(tmp_path, "noon")
    with pytest.raises(GateRefused, match=r"not good enough .*en: precision 0\.\d\d .*asks for 0\.90 and 0\.85"):
        prove(entry, scanner, LABELS, [])


def test_a_model_is_refused_where_nothing_shows_that_it_is_good(tmp_path: Path, scanner: OutputScanner) -> None:
    with pytest.raises(GateRefused, match="no labelled answer"):
        prove(save_judge(tmp_path, "never"), scanner, [], [])


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json", "added.txt"])
def test_a_model_whose_files_changed_is_refused(tmp_path: Path, scanner: OutputScanner, name: str) -> None:
    entry = save_judge(tmp_path, "never")
    file = tmp_path / name
    file.write_bytes((file.read_bytes() if file.exists() else b"") + b" ")
    with pytest.raises(IntegrityError, match=judge_model_digest(tmp_path)):
        prove(entry, scanner, LABELS, [])


def test_a_class_that_the_model_does_not_have_is_named(tmp_path: Path, scanner: OutputScanner) -> None:
    entry = save_judge(tmp_path, "never").model_copy(update={"refusal_label": "refused"})
    with pytest.raises(SourceError, match="no class 'refused'; it has complies, refusal"):
        prove(entry, scanner, LABELS, [])


def test_a_directory_without_a_model_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match=r"no config\.json"):
        judge_model_digest(tmp_path)


def test_the_stage_uses_the_recipes_model_and_names_its_digest(
    institution: DemoInstitution,
    prepare: Callable[[Path], Chain],
    make_adapter: Callable[[float], Path],
    tmp_path: Path,
) -> None:
    entry = save_judge(tmp_path / "judge", "never")
    institution.recipe["evaluation"]["red_team"] |= {"letters": 8, "judge_model": entry.model_dump(mode="json")}
    chain = prepare(make_adapter(0.0))
    labels = "".join(each.model_dump_json() + "\n" for each in LABELS)
    (institution.settings.data / "red_team" / "judge_labels.jsonl").write_text(labels, encoding="utf-8")
    said: list[str] = []
    chain.workplace = institution.workplace(progress=said.append)
    chain.make_all()
    artifact = chain.workplace.store.open(chain.made["red_team_report"])
    assert artifact.manifest.external_inputs["judge_model:refusal"] == entry.sha256
    judged = read_rows(artifact.file("judge.jsonl"), JudgedLabel)
    assert all(each.judged == each.label and not each.tuned for each in judged)
    assert any("judge model: 0 of 20 answers" in line for line in said)

    bad = save_judge(tmp_path / "bad", "noon")
    institution.recipe["evaluation"]["red_team"]["judge_model"] = bad.model_dump(mode="json")
    chain.workplace = institution.workplace()
    with pytest.raises(GateRefused, match="not good enough"):
        chain.make_all()
