"""What adapters hold: stored at registration, and found whatever it is called."""

import pytest

from sovereign_pipeline.base.errors import RecipeError
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.release.recall import Question, ask, training_data
from sovereign_pipeline.release.recall import holders as holders_of
from sovereign_pipeline.training.continuation import assert_base_not_recalled
from sovereign_pipeline_tests.conftest import letter
from sovereign_pipeline_tests.officers import recall
from sovereign_pipeline_tests.registry.rewarded import TRAINING, with_reward_model
from sovereign_pipeline_tests.release.holders import Holders, letters

pytestmark = pytest.mark.slow


def held_by(registry: Registry, **asked: str) -> dict[str, bool]:
    with registry.reading() as session:
        found = holders_of(session, Question(**asked), training_data(session))
        for adapter in found:
            assert holders_of(session, Question(**asked), training_data(session, adapter)) == {adapter: found[adapter]}
        return found


def test_an_adapter_holds_what_it_was_trained_on_and_not_what_was_held_out(holders: Holders) -> None:
    adapter = holders.register()
    registry = holders.registry
    assert held_by(registry, document="R-00011") == {adapter.id: True}
    assert held_by(registry, document="R-00000") == {}  # the first third is held out
    assert held_by(registry, document="R-99999") == {}
    assert held_by(registry, source="letters") == {adapter.id: True}
    assert held_by(registry, document="R-00011", source="letters") == {adapter.id: True}
    assert held_by(registry, document="R-00011", source="pairs") == {}
    assert held_by(registry, dataset=adapter.dataset_digest) == {adapter.id: True}
    assert held_by(registry, base_model=adapter.base_model_digest) == {adapter.id: True}
    with registry.reading() as session:
        for asked in (Question(document="R-00000"), Question(source="pairs"), Question(dataset="0" * 64)):
            assert not holders_of(session, asked, training_data(session, adapter.id))


def test_a_pair_that_only_the_reward_model_saw_is_held_by_the_adapter_that_it_rewarded(holders: Holders) -> None:
    with_reward_model(holders.bench)
    adapter = holders.register(**TRAINING)
    manifest = holders.bench.store.read_manifest(holders.bench.store.ref_of(adapter.adapter_digest))
    assert manifest.inputs["reward_model"] == holders.bench.refs["reward_model"].digest
    assert held_by(holders.registry, document="P-R-00011", source="pairs") == {adapter.id: True}
    assert held_by(holders.registry, dataset=adapter.preference_dataset_digest or "") == {adapter.id: True}
    assert [each.adapter for each in ask(holders.registry, Question(document="P-R-00011")).holders] == [adapter.id]


def test_what_a_parent_adapter_was_trained_on_is_held_by_its_children(holders: Holders) -> None:
    first = holders.register()
    child = holders.register("buoys", letters(100, 112), start_from=first.id)
    grandchild = holders.register("ropes", letters(200, 212), start_from=child.id)
    registry = holders.registry
    assert held_by(registry, document="R-00011") == {first.id: True, child.id: False, grandchild.id: False}
    assert held_by(registry, document="R-00111") == {child.id: True, grandchild.id: False}
    assert held_by(registry, document="R-00211") == {grandchild.id: True}
    assert held_by(registry, dataset=first.dataset_digest) == {first.id: True, child.id: False, grandchild.id: False}


def test_what_a_base_model_was_made_of_here_is_held_by_all_that_rests_on_it(holders: Holders) -> None:
    tuned = holders.register(sft={"adapter": "none"})
    holders.base_model_of(tuned, "own")
    resting = holders.register("buoys", letters(100, 112), base_model="own")
    assert resting.base_model_digest != tuned.base_model_digest
    assert held_by(holders.registry, document="R-00011") == {tuned.id: True, resting.id: False}
    assert held_by(holders.registry, base_model=tuned.base_model_digest) == {tuned.id: True, resting.id: False}
    assert held_by(holders.registry, base_model=resting.base_model_digest) == {resting.id: True}


@pytest.mark.security_case(
    "A recalled adapter, tuned in full, is described as a base model, and a line trains on it",
    "the line stops before training",
)
def test_nothing_is_trained_on_a_base_model_that_was_a_recalled_adapter(holders: Holders) -> None:
    tuned = holders.register(sft={"adapter": "none"})
    holders.base_model_of(tuned, "own")
    holders.register("buoys", letters(100, 112), base_model="own")
    workplace, base = holders.bench.workplace(), {"base_model": holders.bench.artifact("base_model")}
    assert_base_not_recalled(workplace, base)
    recall(holders.registry, Question(document="R-00011"))
    with pytest.raises(RecipeError):
        assert_base_not_recalled(workplace, base)


def test_names_are_compared_whole(holders: Holders) -> None:
    """The bytes of one may be within those of another, or look like the end of the list."""
    names = ['x"R-00001', "R-000011", "\u0645\u0635\u0628\u0627\u062d", "a\\", '],"sources":["none"]', '"sources":']
    rows = [letter(20 + number, id=name) for number, name in enumerate(names)]
    adapter = holders.register(rows=[*letters(0, 12), *rows])
    assert {each for each in names if held_by(holders.registry, document=each)} == {*names}
    assert held_by(holders.registry, document=names[0], source="letters") == {adapter.id: True}
    for absent in ("R-00001", "letters", "none", "a", "x"):
        assert held_by(holders.registry, document=absent) == {}
    assert held_by(holders.registry, source="none") == {}
