"""A tiny base model with a chat template, and adapters on it that change nothing, help, or harm."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from sovereign_pipeline.base import intervals
from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.dataset.jsonl import sft_row, user_message
from sovereign_pipeline.evaluation.arms.models import Models, open_models
from sovereign_pipeline.training.tuned_model import TunedModel
from sovereign_pipeline_tests.conftest import ANY_GUARDRAIL, JUDGE_LABELS, PROMPTS, DemoInstitution
from sovereign_pipeline_tests.evaluation.chain import QUESTIONS, Chain, jsonl
from sovereign_pipeline_tests.evaluation.documents import document
from sovereign_pipeline_tests.tiny_model import save_tiny_model, write_card

INSTRUCTION = "Answer this letter."

MAX_LENGTH = 256


@pytest.fixture(scope="session")
def letters() -> list[Document]:
    return [document(number) for number in range(16)]


@pytest.fixture(scope="session")
def base_model(tmp_path_factory: pytest.TempPathFactory, letters: list[Document]) -> Path:
    texts = [text for letter in letters for text in letter.texts.values()]
    return save_tiny_model(tmp_path_factory.mktemp("models") / "base", texts, max_length=MAX_LENGTH)


@pytest.fixture(scope="session")
def make_adapter(
    base_model: Path, letters: list[Document], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[float], Path]:
    """An adapter after some steps on the letters: learning rate 0 changes nothing, below 0 it unlearns them."""

    @cache
    def make(learning_rate: float) -> Path:
        import torch
        from peft import LoraConfig, get_peft_model
        from transformers import AutoModelForCausalLM, AutoTokenizer

        torch.manual_seed(2)
        tokenizer = AutoTokenizer.from_pretrained(base_model)
        base = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32)
        model = get_peft_model(base, LoraConfig(r=8, lora_alpha=16, target_modules="all-linear"))
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.Adam(parameters, lr=abs(learning_rate))
        for letter in letters * 2 if learning_rate else []:
            row = sft_row(letter, INSTRUCTION)
            turns = [
                {"role": "user", "content": user_message(row["instruction"], row["input"])},
                {"role": "assistant", "content": row["output"]},
            ]
            ids = torch.tensor([tokenizer.apply_chat_template(turns)["input_ids"]])
            loss = model(input_ids=ids, labels=ids).loss * (1 if learning_rate > 0 else -1)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        directory = tmp_path_factory.mktemp("adapter")
        model.save_pretrained(directory)
        return directory

    return make


@pytest.fixture(scope="session")
def make_model(base_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[Path], Path]:
    """A model tuned in full that answers as the base with an adapter does: the adapter, merged into its base."""

    def make(adapter: Path) -> Path:
        import torch
        from peft import PeftModel
        from transformers import AutoModelForCausalLM, AutoTokenizer

        base = AutoModelForCausalLM.from_pretrained(base_model, dtype=torch.float32)
        directory = tmp_path_factory.mktemp("model")
        PeftModel.from_pretrained(base, adapter).merge_and_unload().save_pretrained(directory)
        AutoTokenizer.from_pretrained(base_model).save_pretrained(directory)
        return directory

    return make


Learned = Callable[[float], Path]


@contextmanager
def _opened(base_model: Path, adapter: Path) -> Iterator[Models]:
    with open_models(base_model, {"candidate": TunedModel("adapter", adapter)}, precision="float32") as models:
        yield models


@pytest.fixture(scope="session")
def unchanged(base_model: Path, make_adapter: Learned) -> Iterator[Models]:
    with _opened(base_model, make_adapter(0.0)) as models:
        yield models


@pytest.fixture(scope="session")
def better(base_model: Path, make_adapter: Learned) -> Iterator[Models]:
    with _opened(base_model, make_adapter(5e-3)) as models:
        yield models


@pytest.fixture
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough for a report; the quality of the intervals is tested in `test_intervals.py`."""
    monkeypatch.setattr(intervals, "RESAMPLES", 1_000)


@pytest.fixture
def prepare(
    institution: DemoInstitution, base_model: Path, letters: list[Document], few_resamples: None
) -> Callable[..., Chain]:
    def prepared(tuned: Path, holds: str = "adapter") -> Chain:
        data = institution.settings.data
        write_card(data, "tiny", base_model)
        files = {
            "suites/suite.jsonl": jsonl(QUESTIONS),
            "red_team/prompts.jsonl": jsonl(PROMPTS),
            "red_team/judge_labels.jsonl": JUDGE_LABELS.read_text(encoding="utf-8"),
        }
        for name, content in files.items():
            (data / name).parent.mkdir(parents=True, exist_ok=True)
            (data / name).write_text(content, encoding="utf-8")
        institution.recipe["gates"] = {"capability": {"margin": 1.0}, **ANY_GUARDRAIL}
        institution.recipe["evaluation"]["red_team"]["max_new_tokens"] = 8
        return Chain(institution.workplace(), tuned, letters, holds)

    return prepared
