"""Scores and answers are cached under everything that decides them, and never used once they were changed."""

import importlib.metadata
import shutil
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.evaluation.arms import Arm, models
from sovereign_pipeline.evaluation.arms.models import (
    Answer,
    Item,
    Models,
    Origin,
    Score,
    ScoreCache,
    open_models,
    prompt_text,
    sources_digest,
)
from sovereign_pipeline.record.manifest import MANIFEST_FILE, Manifest
from sovereign_pipeline.record.stage import Workplace
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.waiting import SECONDS


def copied_sources(target: Path) -> Path:
    """The sources of the evaluation, so that one can be changed."""
    shutil.copytree(models.SOURCES.parent, target, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def test_a_changed_byte_in_any_source_of_the_arms_and_nowhere_else_is_another_identity(tmp_path: Path) -> None:
    sources = copied_sources(tmp_path / "evaluation")
    for file in sources.rglob("*.py"):
        if file.parent.name != "arms":
            file.write_bytes(file.read_bytes() + b"#")
    seen = {sources_digest(sources / "arms")}
    assert seen == {sources_digest(models.SOURCES)}
    files = sorted((sources / "arms").rglob("*.py"))
    assert {file.name for file in files} == {"__init__.py", "harness.py", "models.py", "token_tree.py"}
    for file in files:
        content = file.read_bytes()
        file.write_bytes(content + b"#")
        seen.add(sources_digest(sources / "arms"))
        file.write_bytes(content)
    assert len(seen) == 1 + len(files)


BASE, FIRST, SECOND = "b" * 64, "1" * 64, "2" * 64

Given = tuple[list[Score], list[Answer]]


@pytest.fixture
def workplace(institution: DemoInstitution) -> Workplace:
    return institution.workplace()


def cache(workplace: Workplace, candidate: str = FIRST) -> ScoreCache:
    """A tuned model at the level CONFIDENTIAL, by its digest, on a base model that is PUBLIC."""
    base, tuned = {"base_model": BASE}, {"base_model": BASE, "tuned": candidate}
    origins: dict[Arm, Origin] = {"base": Origin(base, "PUBLIC"), "candidate": Origin(tuned, "CONFIDENTIAL")}
    return ScoreCache(workplace, "INTERNAL", origins)


def items_of(loaded: Models) -> list[Item]:
    return [
        Item(f"Q{number}", prompt_text(loaded.tokenizer, f"What is number {number}?"), ("a lamp", "a boat"))
        for number in range(3)
    ]


def ask(loaded: Models, arm: Arm = "base") -> Given:
    asked = items_of(loaded)
    return loaded.score("t", asked, arm), loaded.answer([item.context for item in asked], arm, 6, 2)


def manifests(workplace: Workplace) -> dict[str, Manifest]:
    return {path.parent.name: Manifest.from_file(path) for path in workplace.store.root.glob(f"*/{MANIFEST_FILE}")}


def cached_file(workplace: Workplace, kind: str) -> Path:
    (digest,) = [digest for digest, manifest in manifests(workplace).items() if manifest.kind == kind]
    return workplace.store.path_of(digest) / "rows.jsonl"


@pytest.mark.slow
def test_nothing_is_computed_a_second_time(
    better: Models, workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import LlamaForCausalLM

    plain = {arm: ask(better, arm) for arm in better.arms}
    first, again = (replace(better, cache=cache(workplace)) for _ in range(2))
    assert {arm: ask(first, arm) for arm in first.arms} == plain
    monkeypatch.setattr(LlamaForCausalLM, "forward", lambda *given, **named: pytest.fail("a model was asked"))
    assert {arm: ask(again, arm) for arm in again.arms} == plain
    assert plain["base"] != plain["candidate"]
    assert first.cache is not None and again.cache is not None
    assert first.cache.measured == {"base_items_computed": 6.0, "candidate_items_computed": 6.0}
    assert again.cache.measured == {"base_items_kept": 6.0, "candidate_items_kept": 6.0}


CHANGED_ITEMS: dict[str, Callable[[list[Item]], list[Item]]] = {
    "one is moved": lambda items: [items[1], items[0], items[2]],
    "one is gone": lambda items: items[:2],
    "an id": lambda items: [replace(items[0], id="Q9"), *items[1:]],
    "a context": lambda items: [replace(items[0], context=items[0].context.replace("number", "Number")), *items[1:]],
    "a continuation": lambda items: [replace(items[0], continuations=("a lamp", "a tent")), *items[1:]],
    "the order of continuations": lambda items: [replace(items[0], continuations=("a boat", "a lamp")), *items[1:]],
    "another cut between continuations": lambda items: [replace(items[0], continuations=("a lampa boat",)), *items[1:]],
}


@pytest.mark.slow
def test_other_items_prompts_lengths_and_batches_are_computed_anew(better: Models, workplace: Workplace) -> None:
    loaded, items = replace(better, cache=cache(workplace)), items_of(better)
    loaded.score("t", items, "base")
    for number, (changed, change) in enumerate(CHANGED_ITEMS.items(), 2):
        assert loaded.score("t", change(items), "base") == better.score("t", change(items), "base"), changed
        assert len(manifests(workplace)) == number, changed
    prompts = [item.context for item in items]
    asked = [(prompts, 6, 2), ([prompts[1], prompts[0], prompts[2]], 6, 2), (prompts, 7, 2), (prompts, 6, 3)]
    for number, (given, new_tokens, batch_size) in enumerate(asked, 2 + len(CHANGED_ITEMS)):
        loaded.answer(given, "base", new_tokens, batch_size)
        assert len(manifests(workplace)) == number
    loaded.score("another name", items, "base")
    assert len(manifests(workplace)) == number


@pytest.mark.slow
def test_another_precision_or_number_of_threads_is_something_else(
    base_model: Path, better: Models, workplace: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    asked, threads = items_of(better), torch.get_num_threads()
    replace(better, cache=cache(workplace)).score("t", asked, "base")
    with open_models(base_model, {}, cache(workplace), precision="bfloat16") as loaded:
        assert loaded.score("t", asked, "base") != better.score("t", asked, "base")
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads + 1)
    replace(better, cache=cache(workplace)).score("t", asked, "base")
    assert len(manifests(workplace)) == 3


def is_computed(held: ScoreCache, arm: Arm = "base") -> bool:
    """Whether one score is computed, and not found."""
    computed: list[Score] = []

    def compute() -> list[Score]:
        computed.append(Score("a", (-1.5,), (3,)))
        return computed

    held.get_or_compute("cached_scores", arm, [1], {}, TypeAdapter(list[Score]), compute)
    return bool(computed)


def _other_ladder(held: ScoreCache) -> ScoreCache:
    institution = held.workplace.institution
    ladder = (*institution.classification, "TOP SECRET")
    changed = institution.model_copy(update={"classification": ladder})
    return replace(held, workplace=replace(held.workplace, institution=changed))


OTHERS: dict[str, Callable[[ScoreCache], ScoreCache]] = {
    "base": lambda held: replace(held, origins={"base": Origin({"base_model": SECOND}, "PUBLIC")}),
    "level of the base": lambda held: replace(held, origins={"base": Origin({"base_model": BASE}, "SECRET")}),
    "ladder": _other_ladder,
    "level of the items": lambda held: replace(held, level="CONFIDENTIAL"),
}


def test_other_models_levels_and_ladders_are_something_else_and_another_line_is_not(
    institution: DemoInstitution,
) -> None:
    held = cache(institution.workplace())
    assert is_computed(held) and is_computed(held, "candidate")
    for changed, change in OTHERS.items():
        assert is_computed(change(held)), changed
    assert is_computed(cache(held.workplace, candidate=SECOND), "candidate")
    institution.recipe["line"] = "boats"
    assert not is_computed(cache(institution.workplace()))


def test_other_libraries_and_sources_are_something_else(
    workplace: Workplace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    held, version = cache(workplace), importlib.metadata.version
    assert is_computed(held)
    for library in ("lm-eval", "peft", "tokenizers", "torch", "transformers"):
        with monkeypatch.context() as patch:
            patch.setattr(importlib.metadata, "version", lambda name, of=library: "0" if name == of else version(name))
            assert is_computed(held), library
    assert not is_computed(held)
    sources = copied_sources(tmp_path / "evaluation") / "arms"
    (sources / "harness.py").write_bytes((sources / "harness.py").read_bytes() + b"# changed")
    monkeypatch.setattr(models, "SOURCES", sources)
    assert is_computed(held)


@pytest.mark.slow
def test_it_has_the_level_of_what_was_asked_and_of_the_arm(better: Models, workplace: Workplace) -> None:
    loaded = replace(better, cache=cache(workplace))
    for arm in loaded.arms:
        ask(loaded, arm)
    levels = {(each.kind, "tuned" in each.external_inputs): each for each in manifests(workplace).values()}
    assert {key: manifest.classification for key, manifest in levels.items()} == {
        ("cached_scores", False): "INTERNAL",
        ("cached_answers", False): "INTERNAL",
        ("cached_scores", True): "CONFIDENTIAL",
        ("cached_answers", True): "CONFIDENTIAL",
    }
    for manifest in levels.values():
        assert manifest.summary == {"items": 3}
        assert "number" not in manifest.to_bytes().decode()


def test_what_was_changed_is_named_and_never_used(workplace: Workplace) -> None:
    held = cache(workplace)
    assert is_computed(held)
    file = cached_file(workplace, "cached_scores")
    file.write_text(file.read_text().replace("-", "-1", 1))
    with pytest.raises(IntegrityError, match=rf"{file.parent.name}/rows\.jsonl: the bytes are not"):
        is_computed(held)


def test_two_sessions_at_once_keep_the_same_once(workplace: Workplace) -> None:
    both = threading.Barrier(2, timeout=SECONDS)
    scores = [Score("a", (-1 / 3, -2e-17), (3, 1))]

    def compute() -> list[Score]:
        both.wait()  # until the other one found nothing either
        return scores

    found: list[list[Score]] = []

    def session() -> None:
        found.append(
            cache(workplace).get_or_compute("cached_scores", "base", [1], {}, TypeAdapter(list[Score]), compute)
        )

    threads = [threading.Thread(target=session) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [scores, scores]
    assert len(manifests(workplace)) == 1


def test_text_comes_back_as_it_was_written(workplace: Workplace) -> None:
    """Letters that are composed elsewhere in this project, separators that some readers take for the end of a line."""
    answers = [Answer("e\u0301 \u2028 \x85 \ufeff\n\t ", 4, False), Answer("", 0, True)]
    form = TypeAdapter(list[Answer])
    for _ in range(2):
        assert (
            cache(workplace).get_or_compute("cached_answers", "base", ["a", "b"], {}, form, lambda: answers) == answers
        )


def test_fewer_results_than_items_are_refused(workplace: Workplace) -> None:
    form = TypeAdapter(list[Answer])
    with pytest.raises(IntegrityError, match=r"rows\.jsonl does not contain one result for each of 2 items"):
        cache(workplace).get_or_compute("cached_answers", "base", ["a", "b"], {}, form, lambda: [Answer("", 0, True)])
