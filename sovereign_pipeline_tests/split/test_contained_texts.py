"""No held-out letter is trained: not as prompt, reply, chosen or rejected, not quoted, not with changed words."""

import random
from typing import Any

import pytest

from sovereign_pipeline.artifacts.stage import Verdict
from sovereign_pipeline.split.files import HELD_OUT, TRAIN
from sovereign_pipeline.split.stages import NO_CROSSING_GROUPS
from sovereign_pipeline_tests.conftest import DemoInstitution, letter
from sovereign_pipeline_tests.split.chain import documents_of, materialize, split_stage

GATE = NO_CROSSING_GROUPS.name
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


def sides_of(institution: DemoInstitution) -> tuple[dict[str, str], Verdict]:
    """Id -> side, and the gate's verdict."""
    institution.recipe["sources"] += institution.recipe.pop("more_sources", [])
    split, verdicts = materialize(institution.workplace(), split_stage())
    sides = {document.id: side for side in (TRAIN, HELD_OUT) for document in documents_of(split, side)}
    return sides, verdicts[GATE]


def assert_together(institution: DemoInstitution, pairs: list[tuple[str, str]]) -> None:
    """Under every seed, since one may put both on one side by chance."""
    for seed in range(4):
        institution.recipe["split"] = {"seed": seed, "held_out_share": 0.4}
        sides, verdict = sides_of(institution)
        assert verdict.passed, verdict.message
        assert [(one, other) for one, other in pairs if sides[one] != sides[other]] == []


def with_twins(institution: DemoInstitution, twin: Any, words: int = 120, count: int = 12, **how: Any) -> None:
    """Pairs of letters of other case files: a letter, and what `twin` makes of its request and response."""
    institution.rows = []
    for number in range(count):
        request, response = text(number, words // 2, **how), text(1_000 + number, words - words // 2, **how)
        one = letter(number, request=request, response=response)
        other = letter(500 + number, **twin(request, response, number))
        institution.rows += [one, other]


def pairs(count: int = 12) -> list[tuple[str, str]]:
    return [(f"R-{number:05d}", f"R-{500 + number:05d}") for number in range(count)]


@pytest.mark.security_case(
    "A preference pair under a case of its own has a held-out letter as its prompt",
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
def test_each_field_is_compared_with_each(institution: DemoInstitution, twin: Any) -> None:
    with_twins(institution, twin)
    for row in institution.rows:
        row.setdefault("rejected", None)
    institution.recipe["sources"][0]["columns"] = {"rejected": "rejected"}
    _as_preferences(institution, [row for row in institution.rows if row["rejected"]])
    assert_together(institution, pairs())


def _as_preferences(institution: DemoInstitution, rows: list[dict[str, Any]]) -> None:
    """Move these rows to a source of preference pairs."""
    institution.recipe["sources"][0].pop("columns", None)
    institution.rows = [
        {name: value for name, value in row.items() if name != "rejected"}
        for row in institution.rows
        if row not in rows
    ]
    if not rows:
        return
    institution.recipe["sources"] = [
        institution.recipe["sources"][0],
        {**institution.recipe["sources"][0], "name": "pairs", "role": "preferences", "path": "sources/pairs.jsonl"},
    ]
    institution.recipe["training"]["preference"] = {"method": "dpo"}
    institution.write_items("sources/pairs.jsonl", rows)


@pytest.mark.security_case(
    "A letter of 38 words comes again with one, two or three words changed", "both stay on one side"
)
@pytest.mark.parametrize("field", ["request", "response", "both"])
@pytest.mark.parametrize("changes", [1, 2, 3])
def test_a_short_letter_with_changed_words_finds_its_twin(
    institution: DemoInstitution, changes: int, field: str
) -> None:
    def twin(request: str, response: str, number: int) -> dict[str, str]:
        rng = random.Random(number)
        if field == "both":
            words = changed(f"{request} {response}", rng.sample(range(38), changes)).split()
            return {"request": " ".join(words[:19]), "response": " ".join(words[19:])}
        whole = f"{request} {response}"
        return {field: changed(whole, rng.sample(range(38), changes))}

    with_twins(institution, twin, words=38, count=20)
    if field != "both":
        for row in institution.rows[::2]:
            row[field] = f"{row['request']} {row['response']}"
            other = "response" if field == "request" else "request"
            row[other] = letter(int(row["id"][2:]))[other]
    assert_together(institution, pairs(20))


def test_a_short_arabic_letter_with_changed_words_finds_its_twin(institution: DemoInstitution) -> None:
    def twin(request: str, response: str, number: int) -> dict[str, str]:
        return {"request": changed(request, random.Random(number).sample(range(38), 3))}

    with_twins(institution, twin, words=76, vocabulary=ARABIC)
    assert_together(institution, pairs())


@pytest.mark.security_case(
    "An Arabic letter is copied with Persian ya and kaf under another case file", "both stay on one side"
)
@pytest.mark.parametrize(
    ("vocabulary", "letters"), [(ARABIC, ("يك", "یک")), (None, ("ord", "оrԁ")), (None, ("w", "w\u3164"))]
)
def test_a_letter_in_other_characters_finds_its_twin(
    institution: DemoInstitution, vocabulary: list[str] | None, letters: tuple[str, str]
) -> None:
    def twin(request: str, response: str, number: int) -> dict[str, str]:
        if vocabulary is None:
            return {"request": request.replace(*letters), "response": response.replace(*letters)}
        table = str.maketrans(*letters)
        return {"request": request.translate(table), "response": response.translate(table)}

    words = [f"{word}{ending}" for word in vocabulary for ending in ("ي", "ك")] if vocabulary else None
    with_twins(institution, twin, vocabulary=words)
    assert_together(institution, pairs())


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
    "A letter forwards a whole earlier one of another case file, quoted in English or Arabic or not marked at all",
    "both stay on one side",
)
@pytest.mark.parametrize("form", [*ENGLISH_FORWARDS, *ARABIC_FORWARDS])
def test_a_forwarded_letter_is_tied_to_the_one_it_quotes(institution: DemoInstitution, form: str) -> None:
    def twin(request: str, response: str, number: int) -> dict[str, str]:
        return {"request": form.format(new=text(7_000 + number, 50), old=request, quoted=quoted(request))}

    with_twins(institution, twin, vocabulary=ARABIC if form in ARABIC_FORWARDS else None)
    assert_together(institution, pairs())


@pytest.mark.security_case(
    "A long letter quotes a third of an earlier one", "the quoted block is compared by itself, and ties both"
)
@pytest.mark.parametrize("form", [ENGLISH_FORWARDS[0], ENGLISH_FORWARDS[2], *ARABIC_FORWARDS[:3]])
def test_a_quoted_part_of_a_letter_ties_them_and_so_does_what_was_added(
    institution: DemoInstitution, form: str
) -> None:
    added = {number: text(9_000 + number, 30) for number in range(12)}

    def twin(request: str, response: str, number: int) -> dict[str, str]:
        part = " ".join(request.split()[20:50])
        return {"request": form.format(new=text(7_000 + number, 200), old=part, quoted=quoted(part))}

    with_twins(institution, twin, words=300)
    assert_together(institution, pairs())
    for number, row in enumerate(institution.rows[1::2]):  # now the long part is quoted, the short one is new
        old = text(7_000 + number, 200)
        row["request"] = form.format(new=added[number], old=old, quoted=quoted(old))
        institution.rows[2 * number]["request"] += f" {added[number]}"
    assert_together(institution, pairs())


@pytest.mark.security_case(
    "A held-out letter is copied into so many rows that its words pass for boilerplate",
    "copies count once; where other texts make it boilerplate, it is trained and never held out",
)
@pytest.mark.parametrize("is_copied", [True, False])
def test_a_letter_does_not_escape_by_being_repeated(institution: DemoInstitution, is_copied: bool) -> None:
    request = text(1, 60)
    prompts = [request if is_copied else f"{text(100 + n, 15)} {request} {text(200 + n, 15)}" for n in range(40)]
    institution.rows = [letter(number) for number in range(150)]
    institution.rows[0]["request"] = request
    for number, prompt in enumerate(prompts):
        institution.rows[50 + number]["request"] = prompt
    for seed in range(4):
        institution.recipe["split"] = {"seed": seed, "held_out_share": 0.4}
        sides, verdict = sides_of(institution)
        assert verdict.passed, verdict.message
        assert sides["R-00000"] == TRAIN or {sides[f"R-{50 + n:05d}"] for n in range(40)} == {HELD_OUT}


@pytest.mark.security_case(
    "A letter of a formula and two or three words of its own is copied word for word, with another reply",
    "both stay on one side",
)
@pytest.mark.parametrize("own", [2, 3])
@pytest.mark.parametrize("is_first", [True, False])
def test_equal_short_texts_stay_together_whatever_they_hold(
    institution: DemoInstitution, own: int, is_first: bool
) -> None:
    def request_of(number: int) -> str:
        words = [text(5, 17), text(2_000 + number, own)]
        return " ".join(words[::-1] if is_first else words)

    with_twins(institution, lambda request, response, n: {"request": request_of(n)})
    for number in range(12):
        institution.rows[2 * number]["request"] = request_of(number)
    assert_together(institution, pairs())


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
def test_what_all_letters_share_ties_none(institution: DemoInstitution, request_of: Any, response_of: Any) -> None:
    institution.rows = [letter(n, request=request_of(n), response=response_of(n)) for n in range(60)]
    split, verdicts = materialize(institution.workplace(), split_stage())
    assert verdicts[GATE].passed, verdicts[GATE].message
    assert split.manifest.summary["components"] == 60


def test_letters_that_share_one_sentence_are_not_tied(institution: DemoInstitution) -> None:
    sentences = [text(3_000 + n, 11) for n in range(30)]
    institution.rows = [letter(n, request=f"{text(n, 25)} {sentences[n // 2]} {text(800 + n, 25)}") for n in range(60)]
    split, _ = materialize(institution.workplace(), split_stage())
    assert split.manifest.summary["components"] == 60
