"""Scores and answers are cached under everything that decides them, and never used once they were changed."""

import importlib.metadata
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.base.files import file_sha256
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
from sovereign_pipeline.training.tuned_model import TunedModel
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.waiting import SECONDS


def copied_sources(target: Path) -> Path:
    """The sources of the evaluation, so that one can be changed."""
    shutil.copytree(models.SOURCES.parent, target, ignore=shutil.ignore_patterns("__pycache__"))
    return target


def test_a_changed_byte_in_any_source_of_the_arms_is_another_identity(tmp_path: Path) -> None:
    sources = copied_sources(tmp_path / "evaluation")
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


def test_a_change_elsewhere_in_the_evaluation_is_the_same_identity(tmp_path: Path) -> None:
    sources = copied_sources(tmp_path / "evaluation")
    before = sources_digest(sources / "arms")
    for file in sources.rglob("*.py"):
        if file.parent.name != "arms":
            file.write_bytes(file.read_bytes() + b"#")
    assert sources_digest(sources / "arms") == before


BASE, FIRST, SECOND = "b" * 64, "1" * 64, "2" * 64
NEW_TOKENS = 6

Given = tuple[list[Score], list[Answer]]


@pytest.fixture
def passes() -> Iterator[list[str]]:
    """One entry for every pass through a causal language model in this process."""
    from torch.nn.modules.module import register_module_forward_pre_hook
    from transformers import LlamaForCausalLM

    counted: list[str] = []

    def count(module: Any, inputs: Any) -> None:
        if isinstance(module, LlamaForCausalLM):
            counted.append(type(module).__name__)

    handle = register_module_forward_pre_hook(count)
    yield counted
    handle.remove()


@pytest.fixture
def workplace(institution: DemoInstitution) -> Workplace:
    return institution.workplace()


def cache(workplace: Workplace, level: str = "INTERNAL", incumbent: str | None = None, **tuned: str) -> ScoreCache:
    """Tuned models at the level CONFIDENTIAL, by the digest of each arm, on a base model that is PUBLIC."""
    named = {"candidate": FIRST, **({} if incumbent is None else {"incumbent": incumbent}), **tuned}
    origins: dict[Any, Origin] = {
        arm: Origin({"base_model": BASE, "tuned": digest}, "CONFIDENTIAL") for arm, digest in named.items()
    }
    return ScoreCache(workplace, level, {"base": Origin({"base_model": BASE}, "PUBLIC"), **origins})


def items_of(loaded: Models) -> list[Item]:
    return [
        Item(f"Q{number}", prompt_text(loaded.tokenizer, f"What is number {number}?"), ("a lamp", "a boat"))
        for number in range(3)
    ]


def ask(loaded: Models, arm: Arm = "base") -> Given:
    asked = items_of(loaded)
    return loaded.score("t", asked, arm), loaded.answer([item.context for item in asked], arm, NEW_TOKENS, 2)


def manifests(workplace: Workplace) -> dict[str, Manifest]:
    return {path.parent.name: Manifest.from_file(path) for path in workplace.store.root.glob(f"*/{MANIFEST_FILE}")}


def cached_file(workplace: Workplace, kind: str) -> Path:
    (digest,) = [digest for digest, manifest in manifests(workplace).items() if manifest.kind == kind]
    return workplace.store.path_of(digest) / "rows.jsonl"


@pytest.mark.slow
def test_nothing_is_computed_a_second_time(better: Models, workplace: Workplace, passes: list[str]) -> None:
    plain = {arm: ask(better, arm) for arm in better.arms}
    first, again = (replace(better, cache=cache(workplace)) for _ in range(2))
    passes.clear()
    assert {arm: ask(first, arm) for arm in first.arms} == plain
    assert passes
    passes.clear()
    assert {arm: ask(again, arm) for arm in again.arms} == plain
    assert not passes
    assert plain["base"] != plain["candidate"]
    assert first.cache is not None and again.cache is not None
    assert first.cache.measured == {"base_items_computed": 6.0, "candidate_items_computed": 6.0}
    assert again.cache.measured == {"base_items_kept": 6.0, "candidate_items_kept": 6.0}


@pytest.mark.slow
def test_what_was_scored_as_candidate_is_there_when_it_is_the_incumbent(
    base_model: Path, make_adapter: Callable[[float], Path], workplace: Workplace, passes: list[str]
) -> None:
    old, new = (TunedModel("adapter", make_adapter(rate)) for rate in (5e-3, -5e-3))
    with open_models(base_model, {"candidate": old}, cache(workplace, candidate=FIRST), precision="float32") as loaded:
        before = {arm: ask(loaded, arm) for arm in loaded.arms}
    held = cache(workplace, candidate=SECOND, incumbent=FIRST)
    with open_models(base_model, {"candidate": new, "incumbent": old}, held, precision="float32") as loaded:
        passes.clear()
        assert ask(loaded, "base") == before["base"]
        assert ask(loaded, "incumbent") == before["candidate"]
        assert not passes
        assert ask(loaded, "candidate") not in before.values()
        assert passes
    assert held.measured == {"base_items_kept": 6.0, "incumbent_items_kept": 6.0, "candidate_items_computed": 6.0}


@pytest.mark.slow
def test_another_line_finds_it_where_its_level_is_the_same(
    better: Models, institution: DemoInstitution, passes: list[str]
) -> None:
    ask(replace(better, cache=cache(institution.workplace())))
    institution.recipe["line"] = "boats"
    passes.clear()
    ask(replace(better, cache=cache(institution.workplace())))
    assert not passes


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
@pytest.mark.parametrize("changed", CHANGED_ITEMS)
def test_other_items_are_scored_anew(changed: str, better: Models, workplace: Workplace, passes: list[str]) -> None:
    loaded = replace(better, cache=cache(workplace))
    asked = CHANGED_ITEMS[changed](items_of(loaded))
    loaded.score("t", items_of(loaded), "base")
    passes.clear()
    assert loaded.score("t", asked, "base") == better.score("t", asked, "base")
    assert len(manifests(workplace)) == 2
    passes.clear()
    loaded.score("another name", asked, "base")
    assert not passes


@pytest.mark.slow
@pytest.mark.parametrize(
    ("moved", "new_tokens", "batch_size"), [(True, NEW_TOKENS, 2), (False, NEW_TOKENS + 1, 2), (False, NEW_TOKENS, 3)]
)
def test_other_prompts_lengths_and_batches_are_answered_anew(
    moved: bool, new_tokens: int, batch_size: int, better: Models, workplace: Workplace, passes: list[str]
) -> None:
    loaded = replace(better, cache=cache(workplace))
    prompts = [item.context for item in items_of(loaded)]
    loaded.answer(prompts, "base", NEW_TOKENS, 2)
    passes.clear()
    prompts = [prompts[1], prompts[0], prompts[2]] if moved else prompts
    assert loaded.answer(prompts, "base", new_tokens, batch_size) == better.answer(
        prompts, "base", new_tokens, batch_size
    )
    assert len(manifests(workplace)) == 2


def _other_base(held: ScoreCache) -> ScoreCache:
    return replace(held, origins={"base": Origin({"base_model": SECOND}, "PUBLIC")})


def _higher_model(held: ScoreCache) -> ScoreCache:
    return replace(held, origins={"base": Origin({"base_model": BASE}, "SECRET")})


def _other_ladder(held: ScoreCache) -> ScoreCache:
    institution = held.workplace.institution
    ladder = (*institution.classification, "TOP SECRET")
    changed = institution.model_copy(update={"classification": ladder})
    return replace(held, workplace=replace(held.workplace, institution=changed))


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", [_other_base, _higher_model, _other_ladder, lambda held: replace(held, level="SECRET")]
)
def test_other_models_and_levels_are_something_else(
    change: Callable[[ScoreCache], ScoreCache], better: Models, workplace: Workplace, passes: list[str]
) -> None:
    held = cache(workplace)
    ask(replace(better, cache=held))
    passes.clear()
    ask(replace(better, cache=change(held)))
    assert passes
    assert len(manifests(workplace)) == 4


@pytest.mark.slow
def test_a_tuned_model_is_known_by_its_digest(better: Models, workplace: Workplace, passes: list[str]) -> None:
    ask(replace(better, cache=cache(workplace)), "candidate")
    passes.clear()
    ask(replace(better, cache=cache(workplace, candidate=SECOND)), "candidate")
    assert passes


@pytest.mark.slow
def test_another_precision_of_the_session_is_something_else(
    base_model: Path, better: Models, workplace: Workplace, passes: list[str]
) -> None:
    better_kept = replace(better, cache=cache(workplace))
    asked = items_of(better)
    better_kept.score("t", asked, "base")
    with open_models(base_model, {}, cache(workplace), precision="bfloat16") as loaded:
        passes.clear()
        assert loaded.score("t", asked, "base") != better.score("t", asked, "base")
    assert len(manifests(workplace)) == 2


def other_version(library: str) -> Callable[[pytest.MonkeyPatch, Path], object]:
    def change(patch: pytest.MonkeyPatch, directory: Path) -> None:
        version = importlib.metadata.version
        patch.setattr(importlib.metadata, "version", lambda name: "0.0.1" if name == library else version(name))

    return change


def other_sources(patch: pytest.MonkeyPatch, directory: Path) -> None:
    sources = copied_sources(directory / "evaluation") / "arms"
    (sources / "harness.py").write_bytes((sources / "harness.py").read_bytes() + b"# changed")
    patch.setattr(models, "SOURCES", sources)


def more_threads(patch: pytest.MonkeyPatch, directory: Path) -> None:
    import torch

    threads = torch.get_num_threads()
    patch.setattr(torch, "get_num_threads", lambda: threads + 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [*map(other_version, ("lm-eval", "peft", "tokenizers", "torch", "transformers")), other_sources, more_threads],
)
def test_another_environment_is_something_else(
    change: Callable[[pytest.MonkeyPatch, Path], object],
    better: Models,
    workplace: Workplace,
    passes: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ask(replace(better, cache=cache(workplace)))
    change(monkeypatch, tmp_path)
    passes.clear()
    ask(replace(better, cache=cache(workplace)))
    assert passes


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


def _rewritten(file: Path) -> None:
    """By somebody who corrects the manifest too, but cannot give the directory the name that it would then have."""
    file.write_text(file.read_text().replace("-", "-1", 1))
    manifest = file.with_name(MANIFEST_FILE)
    content = Manifest.from_file(manifest)
    (entry,) = content.files
    changed = entry.model_copy(update={"size": file.stat().st_size, "sha256": file_sha256(file)})
    manifest.write_bytes(content.model_copy(update={"files": (changed,)}).to_bytes())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("tamper", "named"),
    [
        (lambda file: file.write_text(file.read_text().replace("-", "-1", 1)), r"rows\.jsonl: the bytes are not"),
        (lambda file: file.write_bytes(file.read_bytes()[:-20]), r"rows\.jsonl: the bytes are not"),
        (lambda file: file.unlink(), r"rows\.jsonl: the file is missing"),
        (lambda file: file.with_name("more.jsonl").write_text(""), r"more\.jsonl: this file does not belong"),
        (_rewritten, r"manifest\.json: this is not the manifest"),
    ],
)
def test_what_was_changed_is_named_and_never_used(
    tamper: Callable[[Path], object], named: str, better: Models, workplace: Workplace
) -> None:
    loaded = replace(better, cache=cache(workplace))
    ask(loaded)
    file = cached_file(workplace, "cached_scores")
    tamper(file)
    with pytest.raises(IntegrityError, match=f"{file.parent.name}/{named}"):
        ask(loaded)


@pytest.mark.slow
def test_scores_of_something_else_in_its_place_are_refused(better: Models, workplace: Workplace) -> None:
    """The index is made to lead from the base's scores to the candidate's, each of which is whole."""
    loaded = replace(better, cache=cache(workplace))
    asked = items_of(loaded)
    loaded.score("t", asked, "base")
    (base_entry,) = (workplace.store.root / ".index").rglob("*.json")
    loaded.score("t", asked, "candidate")
    (other,) = set((workplace.store.root / ".index").rglob("*.json")) - {base_entry}
    base_entry.write_bytes(other.read_bytes())
    with pytest.raises(IntegrityError, match=r"an entry for cached_scores points to .*, which has another identity"):
        loaded.score("t", asked, "base")


@pytest.mark.slow
def test_a_removed_one_is_worked_out_again(better: Models, workplace: Workplace, passes: list[str]) -> None:
    loaded = replace(better, cache=cache(workplace))
    before = ask(loaded)
    file = cached_file(workplace, "cached_scores")
    shutil.rmtree(file.parent)
    passes.clear()
    assert ask(loaded) == before
    assert passes


@pytest.mark.slow
def test_work_that_was_interrupted_leaves_nothing(better: Models, workplace: Workplace) -> None:
    def interrupted() -> list[Score]:
        raise KeyboardInterrupt

    held = cache(workplace)
    with pytest.raises(KeyboardInterrupt):
        held.get_or_compute("cached_scores", "base", [1], {}, TypeAdapter(list[Score]), interrupted)
    assert not list(workplace.store.root.rglob("*.json*"))
    assert held.get_or_compute(
        "cached_scores", "base", [1], {}, TypeAdapter(list[Score]), lambda: [Score("a", (-1.5,), (3,))]
    ) == [Score("a", (-1.5,), (3,))]


@pytest.mark.slow
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


@pytest.mark.slow
def test_text_comes_back_as_it_was_written(workplace: Workplace) -> None:
    """Letters that are composed elsewhere in this project, separators that some readers take for the end of a line."""
    answers = [Answer("e\u0301 \u2028 \x85 \ufeff\n\t ", 4, False), Answer("", 0, True)]
    form = TypeAdapter(list[Answer])
    for _ in range(2):
        assert (
            cache(workplace).get_or_compute("cached_answers", "base", ["a", "b"], {}, form, lambda: answers) == answers
        )


@pytest.mark.slow
def test_fewer_results_than_items_are_refused(workplace: Workplace) -> None:
    form = TypeAdapter(list[Answer])
    with pytest.raises(IntegrityError, match=r"rows\.jsonl does not contain one result for each of 2 items"):
        cache(workplace).get_or_compute("cached_answers", "base", ["a", "b"], {}, form, lambda: [Answer("", 0, True)])
