"""No held-out letter is trained: not as prompt, reply, chosen or rejected, not quoted, not with changed words."""

import random
import tempfile
from collections import Counter
from itertools import combinations, product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sovereign_pipeline.policy.corpus import Split
from sovereign_pipeline.split import contained_texts
from sovereign_pipeline.split.contained_texts import (
    Boilerplate,
    OwnShingles,
    Text,
    TextCollector,
    Texts,
    contained_pairs,
    crossing_texts,
    key_of_text,
    needed_in_common,
)
from sovereign_pipeline.split.shingles import SLOTS
from sovereign_pipeline_tests.conftest import letter
from sovereign_pipeline_tests.split.chain import assigned

Corpus = list[str]
Rows = list[dict[str, Any]]


def texts_in(directory: Path, name: str, documents: Corpus) -> Texts:
    collector = TextCollector()
    for number, words in enumerate(documents):
        collector.add(number, [Text("request", words)])
    return collector.stored(directory / name)


def runs(words: str) -> set[tuple[str, ...]]:
    split = words.split()
    return {tuple(split[start : start + 5]) for start in range(len(split) - 4)}


def contained(one: str, other: str, common: set[Any], formulas: set[str]) -> bool:
    """The definition, written a second time."""
    if one == other and one not in formulas:
        return True
    left, right = runs(one) - common, runs(other) - common
    size = min(len(left), len(right))
    if size < 4:
        return False
    return len(left & right) >= max(-(-size // 2) - 2, min(size, 6))


def boilerplate_of(documents: Corpus) -> set[Any]:
    counted = [words for words in documents if len(words.split()) < 24]
    counted += {words for words in documents if len(words.split()) >= 24}
    counts = Counter(run for words in counted for run in runs(words))
    return {run for run, count in counts.items() if count > 20}


def formulas_of(documents: Corpus) -> set[str]:
    return {words for words, count in Counter(documents).items() if count > 20 and len(words.split()) < 24}


@st.composite
def corpora(draw: st.DrawFn) -> Corpus:
    """Texts that share pieces with one another, of all lengths, some with changed words, some in all texts."""
    rng = draw(st.randoms(use_true_random=False))
    pieces = [" ".join(rng.choice("abcdefghijklmnop") for _ in range(rng.choice([5, 9, 14, 30]))) for _ in range(14)]
    documents = []
    for _ in range(draw(st.integers(2, 45))):
        words = " ".join(rng.choice(pieces[: rng.choice([2, 14])]) for _ in range(rng.randint(1, 4))).split()
        for _ in range(rng.choice([0, 0, 1, 3])):
            words[rng.randrange(len(words))] = f"z{rng.randrange(99)}"
        documents.append(" ".join(words))
    return documents


@settings(deadline=None, max_examples=60)
@given(corpora())
def test_the_search_equals_the_brute_force(documents: Corpus) -> None:
    with tempfile.TemporaryDirectory() as directory:
        all_texts = texts_in(Path(directory), "texts", documents)
        texts = all_texts.distinct()
        boilerplate = Boilerplate.of(Path(directory), all_texts)
        pairs = texts.documents[contained_pairs(texts, OwnShingles.of(texts, boilerplate))]
    common = boilerplate_of(documents)
    formulas = formulas_of(documents)
    numbers = [n for n, words in enumerate(documents) if len(words.split()) < 24 or words not in documents[:n]]
    expected = [(n, m) for n, m in combinations(numbers, 2) if contained(documents[n], documents[m], common, formulas)]
    assert sorted(set(map(tuple, pairs.tolist()))) == expected


@settings(deadline=None, max_examples=60)
@given(corpora(), st.randoms(use_true_random=False))
def test_the_measurement_equals_the_brute_force(documents: Corpus, rng: random.Random) -> None:
    held, train = documents[: len(documents) // 3 + 1], documents[len(documents) // 3 + 1 :]
    train += rng.sample(held, len(held) // 2)
    with tempfile.TemporaryDirectory() as directory:
        sides = [texts_in(Path(directory), name, side) for name, side in (("held", held), ("train", train))]
        found = crossing_texts(sides[0], sides[1], Boilerplate.of(Path(directory), *sides))
    common = boilerplate_of([*held, *train])

    def first(side: Corpus) -> list[int]:
        return [n for n, words in enumerate(side) if len(words.split()) < 24 or words not in side[:n]]

    formulas = formulas_of([*held, *train])
    expected = [(n, m) for n, m in product(first(held), first(train)) if contained(held[n], train[m], common, formulas)]
    assert list(map(tuple, found.documents.tolist())) == expected
    assert found.by_fields["request ~ request"] == sum(found.by_fields.values()) == len(expected)


@pytest.mark.parametrize("bound", ["contained_texts._PAIRS_PER_BLOCK", "contained_texts._TEXTS_PER_BLOCK"])
def test_the_same_in_many_small_blocks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, bound: str) -> None:
    rng = random.Random(3)
    pieces = [" ".join(f"w{rng.randrange(900)}" for _ in range(30)) for _ in range(12)]
    documents = [f"{rng.choice(pieces)} {rng.choice(pieces)}" for _ in range(40)]

    def found() -> list[Any]:
        texts = texts_in(tmp_path, "texts", documents).distinct()
        boilerplate = Boilerplate.of(tmp_path, texts)
        pairs = texts.documents[contained_pairs(texts, OwnShingles.of(texts, boilerplate))]
        return [sorted(pairs.tolist()), crossing_texts(texts, texts, boilerplate).documents.tolist()]

    before = found()
    monkeypatch.setattr(f"sovereign_pipeline.split.{bound}", 3)
    assert found() == before
    assert all(before)


def test_the_threshold_leaves_one_changed_word_in_ten_at_every_length() -> None:
    sizes = np.arange(1, 2_000)
    needed = needed_in_common(sizes)
    assert (needed[:3] > 2_000).all()
    assert needed[3:8].tolist() == [4, 5, 6, 6, 6]
    words = sizes + 4
    left = sizes - 5 * (words // 10)
    enough = words >= 20
    assert (needed[enough] <= left[enough]).all()
    assert needed[38 - 4 - 1] == 15
    assert (np.diff(needed[3:]) >= 0).all()


def test_boilerplate_is_what_more_than_twenty_texts_hold_and_copies_count_once(tmp_path: Path) -> None:
    formula = "with reference to your letter we advise as follows"
    own = [" ".join(f"w{n}x{place}" for place in range(30)) for n in range(contained_texts.BOILERPLATE_TEXTS + 1)]
    copies = texts_in(tmp_path, "copies", [own[0]] * 50)
    assert Boilerplate.of(tmp_path, copies).shingles.size == 0
    few = texts_in(tmp_path, "few", [f"{formula} {each}" for each in own[1:]])
    assert Boilerplate.of(tmp_path, few).shingles.size == 0
    many = texts_in(tmp_path, "many", [f"{formula} {each}" for each in own])
    boilerplate = Boilerplate.of(tmp_path, many)
    assert boilerplate.shingles.size == len(runs(formula))
    assert OwnShingles.of(many, boilerplate).sizes.tolist() == [39 - 4 - len(runs(formula))] * len(own)


@pytest.mark.parametrize(("words", "keys"), [(7, []), (8, [0]), (23, [0]), (24, [1])])
def test_a_text_counts_from_eight_words_and_as_long_from_twenty_four(words: int, keys: list[int]) -> None:
    assert [key_of_text(each) % 2 for each in contained_texts.texts_in("request", text(1, words))] == keys


def test_a_long_text_of_three_quarters_boilerplate_is_boilerplate(tmp_path: Path) -> None:
    texts = texts_in(tmp_path, "texts", [text(1, 44), text(2, 44), text(3, 22)])
    none = np.empty(0, np.uint64)
    own = OwnShingles(np.array([9, 10, 0]), none, np.empty(0, np.int64), none)
    assert own.are_boilerplate(texts).tolist() == [True, False, False]
    everywhere = Boilerplate(np.broadcast_to(np.uint8(2), SLOTS), np.array([5], np.uint64), none)
    assert everywhere.contains(np.array([1, 5, 9], np.uint64)).tolist() == [False, True, False]


def test_a_letter_with_quoted_lines_is_compared_as_a_whole_too(tmp_path: Path) -> None:
    """Neither its quoted line nor the other is long enough to be compared by itself."""

    def twin(request: str, response: str, number: int) -> dict[str, str]:
        words = request.split()
        return {"request": f"> {' '.join(words[:6])}\n{' '.join(words[6:])}"}

    rows = with_twins(twin, words=24)
    for number, row in enumerate(rows):
        row["response"] = text(3_000 + number, 40)
    assert_together(tmp_path, rows)


ARABIC = [
    a + b
    for a in ("مرسى", "قارب", "رخص", "ميناء", "صياد", "رسم", "طلب", "كتاب", "موسم", "تفتيش", "ساحل", "مالك")
    for b in ("", "ها", "هم", "نا", "كم", "ات", "ون", "ين")
]


def text(seed: int, words: int, vocabulary: list[str] | None = None) -> str:
    rng = random.Random(seed)
    return " ".join(rng.choice(vocabulary) if vocabulary else f"word{rng.randrange(5_000)}" for _ in range(words))


def changed(content: str, places: list[int]) -> str:
    words = content.split()
    for place in places:
        words[place] = f"changed{place}"
    return " ".join(words)


def assert_together(directory: Path, rows: Rows, count: int = 12) -> None:
    """The letters of each pair are one component, so no seed can part them."""
    component_of = assigned(directory, rows, Split()).component_of.tolist()
    of = dict(zip((row["id"] for row in rows), component_of, strict=True))
    assert [n for n in range(count) if of[f"R-{n:05d}"] != of[f"R-{500 + n:05d}"]] == []


def with_twins(twin: Any, words: int = 120, count: int = 12, **how: Any) -> Rows:
    """Pairs of letters of other case files: a letter, and what `twin` makes of its request and response."""
    rows = []
    for number in range(count):
        request, response = text(number, words // 2, **how), text(1_000 + number, words - words // 2, **how)
        rows.append(letter(number, request=request, response=response))
        rows.append(letter(500 + number, **twin(request, response, number)))
    return rows


@pytest.mark.security_case(
    "A preference pair in a separate case has a held-out letter as its prompt",
    "the pair stays on the letter's side",
)
@pytest.mark.security_case(
    "The true reply to a held-out letter is trained as `rejected`", "the pair stays on the letter's side"
)
@pytest.mark.security_case("The request of a row equals the reply of another", "both stay on one side")
@pytest.mark.parametrize(
    "twin",
    [
        lambda request, response, n: {"request": request},
        lambda request, response, n: {"response": response},
        lambda request, response, n: {"rejected": response},
        lambda request, response, n: {"rejected": request},
        lambda request, response, n: {"request": response},
        lambda request, response, n: {"response": request},
        lambda request, response, n: {"subject": request},
    ],
)
def test_each_field_is_compared_with_each(tmp_path: Path, twin: Any) -> None:
    assert_together(tmp_path, with_twins(twin))


@pytest.mark.security_case(
    "A letter of 38 words is repeated with one, two or three words changed", "both stay on one side"
)
@pytest.mark.parametrize("field", ["request", "response", "both"])
@pytest.mark.parametrize("changes", [1, 2, 3])
def test_a_short_letter_with_changed_words_finds_its_twin(tmp_path: Path, changes: int, field: str) -> None:
    def twin(request: str, response: str, number: int) -> dict[str, str]:
        rng = random.Random(number)
        if field == "both":
            words = changed(f"{request} {response}", rng.sample(range(38), changes)).split()
            return {"request": " ".join(words[:19]), "response": " ".join(words[19:])}
        whole = f"{request} {response}"
        return {field: changed(whole, rng.sample(range(38), changes))}

    rows = with_twins(twin, words=38, count=20)
    if field != "both":
        for row in rows[::2]:
            row[field] = f"{row['request']} {row['response']}"
            other = "response" if field == "request" else "request"
            row[other] = letter(int(row["id"][2:]))[other]
    assert_together(tmp_path, rows, 20)


def test_a_short_arabic_letter_with_changed_words_finds_its_twin(tmp_path: Path) -> None:
    def twin(request: str, response: str, number: int) -> dict[str, str]:
        return {"request": changed(request, random.Random(number).sample(range(38), 3))}

    assert_together(tmp_path, with_twins(twin, words=76, vocabulary=ARABIC))


@pytest.mark.security_case(
    "An Arabic letter is copied with Persian ya and kaf under another case file", "both stay on one side"
)
@pytest.mark.parametrize(
    ("vocabulary", "letters"), [(ARABIC, ("يك", "یک")), (None, ("ord", "оrԁ")), (None, ("w", "w\u3164"))]
)
def test_a_letter_in_other_characters_finds_its_twin(
    tmp_path: Path, vocabulary: list[str] | None, letters: tuple[str, str]
) -> None:
    def twin(request: str, response: str, number: int) -> dict[str, str]:
        if vocabulary is None:
            return {"request": request.replace(*letters), "response": response.replace(*letters)}
        table = str.maketrans(*letters)
        return {"request": request.translate(table), "response": response.translate(table)}

    words = [f"{word}{ending}" for word in vocabulary for ending in ("ي", "ك")] if vocabulary else None
    assert_together(tmp_path, with_twins(twin, vocabulary=words))


ENGLISH_FORWARDS = [
    "{new}\n\n-----Original Message-----\nFrom: A\nSent: Monday\nTo: B\nSubject: Lamp\n\n{old}",
    "{new}\n\n---------- Forwarded message ---------\nFrom: A <a@b.example>\nDate: Monday\nSubject: Lamp\n\n{old}",
    "{new}\n\nOn 4 May 2024 at 10:11, A <a@b.example>\nwrote:\n\n{quoted}",
    "{quoted}\n\n{new}",
    "{new}\n\n{old}",
    "{new} {old} {new}",
]
ARABIC_FORWARDS = [
    "{new}\n\n-----الرسالة الأصلية-----\nمن: سالم\nإلى: الوزارة\nالموضوع: مصباح\n\n{old}",
    "{new}\n\nفي 4 مايو 2024، كتب سالم:\n{quoted}",
    "{new}\n\nمن: سالم\nتاريخ الإرسال: الأحد\nإلى: الوزارة\n{old}",
    "{new}\n\n{old}",
]


def quoted(content: str) -> str:
    words = content.split()
    return "\n".join("> " + " ".join(words[start : start + 9]) for start in range(0, len(words), 9))


@pytest.mark.security_case(
    "A letter forwards a complete letter of another case file, quoted in English or Arabic or without any mark",
    "both stay on one side",
)
@pytest.mark.parametrize("form", [*ENGLISH_FORWARDS, *ARABIC_FORWARDS])
def test_a_forwarded_letter_is_tied_to_the_one_it_quotes(tmp_path: Path, form: str) -> None:
    def twin(request: str, response: str, number: int) -> dict[str, str]:
        return {"request": form.format(new=text(7_000 + number, 50), old=request, quoted=quoted(request))}

    assert_together(tmp_path, with_twins(twin, vocabulary=ARABIC if form in ARABIC_FORWARDS else None))


@pytest.mark.security_case(
    "A long letter quotes a third of an earlier letter", "the quotation is compared separately, and ties both"
)
@pytest.mark.parametrize("form", [ENGLISH_FORWARDS[0], ENGLISH_FORWARDS[2], *ARABIC_FORWARDS[:3]])
def test_a_quoted_part_of_a_letter_ties_them_and_so_does_what_was_added(tmp_path: Path, form: str) -> None:
    added = {number: text(9_000 + number, 30) for number in range(12)}

    def twin(request: str, response: str, number: int) -> dict[str, str]:
        part = " ".join(request.split()[20:50])
        return {"request": form.format(new=text(7_000 + number, 200), old=part, quoted=quoted(part))}

    rows = with_twins(twin, words=300)
    assert_together(tmp_path, rows)
    for number, row in enumerate(rows[1::2]):  # now the long part is quoted, the short one is new
        old = text(7_000 + number, 200)
        row["request"] = form.format(new=added[number], old=old, quoted=quoted(old))
        rows[2 * number]["request"] += f" {added[number]}"
    assert_together(tmp_path, rows)


@pytest.mark.security_case(
    "A held-out letter is copied into so many rows that its words could count as boilerplate",
    "copies count once; a letter that other texts make boilerplate is trained on instead of held out",
)
@pytest.mark.parametrize("is_copied", [True, False])
def test_a_letter_does_not_escape_by_being_repeated(tmp_path: Path, is_copied: bool) -> None:
    request = text(1, 60)
    prompts = [request if is_copied else f"{text(100 + n, 15)} {request} {text(200 + n, 15)}" for n in range(40)]
    rows = [letter(number) for number in range(150)]
    rows[0]["request"] = request
    for number, prompt in enumerate(prompts):
        rows[50 + number]["request"] = prompt
    for seed in range(4):
        is_held_out = assigned(tmp_path, rows, Split(seed=seed, held_out_share=0.4)).is_held_out
        assert not is_held_out[0] or is_held_out[50:90].all()


@pytest.mark.security_case(
    "A letter of a standard phrase and two or three other words is copied word for word, with another reply",
    "both stay on one side",
)
@pytest.mark.parametrize("own", [2, 3])
@pytest.mark.parametrize("is_first", [True, False])
def test_equal_short_texts_stay_together_whatever_they_hold(tmp_path: Path, own: int, is_first: bool) -> None:
    def request_of(number: int) -> str:
        words = [text(5, 17), text(2_000 + number, own)]
        return " ".join(words[::-1] if is_first else words)

    rows = with_twins(lambda request, response, n: {"request": request_of(n)})
    for number in range(12):
        rows[2 * number]["request"] = request_of(number)
    assert_together(tmp_path, rows)


FORMULA = text(5, 40)


@pytest.mark.parametrize(
    ("request_of", "response_of"),
    [
        (lambda n: f"{FORMULA} {text(n, 45)}", lambda n: f"{text(900 + n, 45)} {FORMULA}"),
        (
            lambda n: f"Peace be upon you. {text(n, 30)}",
            lambda n: f"With reference to your letter. {text(900 + n, 30)}",
        ),
        (lambda n: text(n, 40), lambda n: "The requested information is not held centrally by the department."),
        (lambda n: "May I berth in the north basin this year?", lambda n: text(n, 40)),
    ],
)
def test_what_all_letters_share_ties_none(tmp_path: Path, request_of: Any, response_of: Any) -> None:
    rows = [letter(n, request=request_of(n), response=response_of(n)) for n in range(60)]
    assert len(set(assigned(tmp_path, rows, Split()).component_of.tolist())) == 60


def test_letters_that_share_one_sentence_are_not_tied(tmp_path: Path) -> None:
    sentences = [text(3_000 + n, 11) for n in range(30)]
    rows = [letter(n, request=f"{text(n, 25)} {sentences[n // 2]} {text(800 + n, 25)}") for n in range(60)]
    assert len(set(assigned(tmp_path, rows, Split()).component_of.tolist())) == 60
