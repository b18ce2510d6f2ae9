"""Who is shown what and at which position, for any seed."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovereign_pipeline.corpus.document import Document, Message
from sovereign_pipeline.policy.evaluation import Review
from sovereign_pipeline.review.plan import candidate_positions, commitment, deal, pairs_to_guess, readable
from sovereign_pipeline.review.stages import prompt_of
from sovereign_pipeline_tests.conftest import letter
from sovereign_pipeline_tests.examples import examples

seeds = st.binary(min_size=32, max_size=32)
shapes = st.builds(
    Review,
    operators=st.integers(5, 10),
    prompts_each=st.integers(1, 10).map(lambda half: 2 * half),
    shared_prompts=st.integers(0, 2).map(lambda half: 2 * half),
    guess_pairs=st.just(2),
)


def languages(review: Review, more: int = 0) -> dict[str, str]:
    return {f"L-{number:04d}": "ar" if number % 3 == 0 else "en" for number in range(review.prompts + more)}


def operators(review: Review) -> list[str]:
    return [f"operator-{number}" for number in range(review.operator_count)]


@given(seed=seeds, review=shapes, more=st.integers(0, 20))
@settings(max_examples=40)
def test_a_plan_is_balanced(seed: bytes, review: Review, more: int) -> None:
    """Prompts are distinct for each operator but for the shared ones; the candidate is A in exactly half of each
    operator's pairs; languages are mixed alike."""
    known = languages(review, more)
    planned = deal(seed, known, operators(review), review)
    own = Counter(each.prompt for pairs in planned.values() for each in pairs if not each.shared)
    shared = Counter(each.prompt for pairs in planned.values() for each in pairs if each.shared)
    assert len(own) == review.operator_count * review.prompts_each and set(own.values()) <= {1}
    assert len(shared) == review.shared_prompts and set(shared.values()) <= {review.operator_count}
    assert not own.keys() & shared.keys()
    assert {len(pairs) for pairs in planned.values()} == {review.prompts_each + review.shared_prompts}
    ids = [each.pair for pairs in planned.values() for each in pairs]
    assert len(set(ids)) == len(ids)
    for operator, pairs in planned.items():
        positions = candidate_positions(seed, operator, pairs)
        for is_shared in (False, True):
            found = Counter(positions[each.pair] for each in pairs if each.shared == is_shared)
            assert found["a"] == found["b"]
    arabic = [sum(known[each.prompt] == "ar" for each in pairs if not each.shared) for pairs in planned.values()]
    assert max(arabic) - min(arabic) <= 1


@given(seed=seeds)
@settings(max_examples=40)
def test_what_is_guessed_at_has_the_candidate_as_a_as_often_as_as_b(seed: bytes) -> None:
    review = Review(guess_pairs=4)
    for operator, pairs in deal(seed, languages(review), operators(review), review).items():
        identical = {each.prompt for each in pairs[::7]}
        chosen = pairs_to_guess(seed, operator, pairs, identical, 4)
        positions = candidate_positions(seed, operator, pairs)
        assert Counter(positions[pair] for pair in chosen) == {"a": 2, "b": 2}
        by_pair = {each.pair: each for each in pairs}
        assert not any(by_pair[pair].shared or by_pair[pair].prompt in identical for pair in chosen)


def test_the_same_seed_gives_the_same_plan_and_another_one_another() -> None:
    review = Review()
    plans = [deal(seed, languages(review), operators(review), review) for seed in (b"1" * 32, b"1" * 32, b"2" * 32)]
    assert plans[0] == plans[1] != plans[2]
    assert commitment(b"1" * 32) != commitment(b"2" * 32)


def test_neither_place_nor_id_tells_the_position() -> None:
    """Over many seeds the share of pairs with the candidate as A is one half at each place, and for each first
    digit."""
    counts: Counter[str] = Counter()
    as_a: Counter[str] = Counter()
    review = Review(prompts_each=4)
    for number in range(400):
        seed = number.to_bytes(32, "big")
        for operator, pairs in deal(seed, languages(review), operators(review), review).items():
            positions = candidate_positions(seed, operator, pairs)
            for place, each in enumerate(pairs):
                for key in (f"place {place}", f"id {each.pair[0]}"):
                    counts[key] += 1
                    as_a[key] += positions[each.pair] == "a"
    for key, count in counts.items():
        assert abs(as_a[key] / count - 0.5) < 4 * 0.5 / count**0.5, key


@pytest.mark.parametrize(
    ("message", "expected"),
    examples(__file__, "a_turn_is_readable"),
)
def test_a_turn_is_readable(message: dict[str, object], expected: str) -> None:
    assert readable(Message.model_validate(message)) == expected


def test_a_held_out_conversation_is_a_prompt_of_its_turns_and_a_letter_one_of_text() -> None:
    turns = [{"role": "user", "content": "Is it?"}, {"role": "assistant", "content": "It is."}]
    columns = {**letter(1), "source": "letters", "messages": [*turns, *turns], "subject": "Lamp"}
    conversation = Document.model_validate({k: v for k, v in columns.items() if k not in ("request", "response")})
    prompt = prompt_of(conversation)
    assert [each.content for each in prompt.messages] == ["Lamp\n\nIs it?", "It is.", "Is it?"]
    stored = prompt_of(Document.model_validate({**letter(1), "source": "letters"})).model_dump()
    assert set(stored) == {"id", "language", "text"}
