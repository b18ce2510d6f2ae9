"""The page in a real browser: a whole review by keyboard, in both languages.

Everything that the browser received is kept and searched for what would tell which answer is whose.
"""

import base64
import json
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.corpus.document import Message
from sovereign_pipeline.record.tables import Guess
from sovereign_pipeline.review.page import app
from sovereign_pipeline.review.plan import PlanContents, plan_of
from sovereign_pipeline_tests.browser import DESKTOP, PHONE, assert_accessible
from sovereign_pipeline_tests.review.conftest import ReviewBench
from sovereign_pipeline_tests.review.page.operators import (
    Operator,
    Operators,
    ballots,
    token,
)
from sovereign_pipeline_tests.review.page.servers import Sent

pytestmark = pytest.mark.browser


def whole_review(operator: Operator, reviews: ReviewBench, pictures: Path, language: str) -> None:
    """Rate everything by keyboard alone, and guess. Each pair gets other ratings."""
    operator.sign_in(token(reviews, operator.name))
    page = operator.page
    for number, planned in enumerate(reviews.asked(operator.name)):
        assert operator.pair == planned.pair
        assert page.inner_text(".progress").split()[:3] == [str(4 - number), {"en": "of", "ar": "من"}[language], "4"]
        operator.type(f"1234{number + 1}5")
        if number == 0:
            page.screenshot(path=pictures / f"{language}-pair.png", full_page=True)
            page.set_viewport_size(PHONE)
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
            page.screenshot(path=pictures / f"{language}-phone.png", full_page=True)
            page.set_viewport_size(DESKTOP)
        if language == "ar":
            # What an Arabic keyboard sends: its own character, at the place of a T.
            page.evaluate("document.dispatchEvent(new KeyboardEvent('keydown', {code: 'KeyT', key: 'ف'}))")
        else:
            operator.type("abt"[number % 3])
        operator.record()
    page.screenshot(path=pictures / f"{language}-guess.png", full_page=True)
    assert_accessible(page)
    for choice in "ab":
        assert page.locator("#guess").count() == 1
        operator.type(choice)
        operator.record()
    page.screenshot(path=pictures / f"{language}-done.png")
    assert_accessible(page)
    assert {"en": "All your pairs are rated", "ar": "قيّمت كل ما لديك"}[language] in page.inner_text("main")


CONVERSATIONS = {
    "en": [
        {"role": "user", "content": "What is a berth for 9 metres in Sur, and where is my file?"},
        {
            "role": "assistant",
            "tool_calls": [
                {"name": "fee_for_vessel", "arguments": {"harbour": "Sur", "length_m": 9}},
                {"name": "permit_status", "arguments": {"file": "PRM/2025/017"}},
            ],
        },
        {"role": "tool", "content": '{"fee_omr": 63.0, "missing": ["survey", "consent"]}'},
        {"role": "assistant", "content": "OMR 63.000. The survey and the consent are missing."},
        {"role": "user", "content": "Until when?"},
    ],
    "ar": [
        {"role": "user", "content": "كم رسم المرسى في صور لقارب طوله تسعة أمتار؟"},
        {"role": "assistant", "tool_calls": [{"name": "fee_for_vessel", "arguments": {"harbour": "صور"}}]},
        {"role": "tool", "content": '{"fee_omr": 28.0}'},
        {"role": "assistant", "content": "الرسم 28.000 ريالاً للسنة."},
        {"role": "user", "content": "وهل يمكن الدفع على قسطين؟"},
    ],
}


@pytest.mark.parametrize(("language", "heading"), [("en", "Call of a tool"), ("ar", "استدعاء أداة")])
def test_a_conversation_is_read_turn_by_turn_with_its_calls_and_results(
    operators: Operators,
    reviews: ReviewBench,
    pictures: Path,
    monkeypatch: pytest.MonkeyPatch,
    language: str,
    heading: str,
) -> None:
    messages = [Message.model_validate(each) for each in CONVERSATIONS[language]]

    def conversing(*arguments: Any) -> PlanContents:
        contents = plan_of(*arguments)
        prompts = {name: each.model_copy(update={"messages": messages}) for name, each in contents.prompts.items()}
        return replace(contents, prompts=prompts)

    monkeypatch.setattr(app, "plan_of", conversing)
    operator = operators("operator-1", language)
    operator.sign_in(token(reviews, operator.name))
    turns = operator.page.locator(".turns li")
    shown = turns.all_inner_texts()
    assert len(shown) == 5 and operator.complaints == []
    assert heading in shown[1] and "harbour: " in shown[1] and "{" not in "".join(shown)
    assert ("PRM/2025/017" in shown[1] and "missing: survey, consent" in shown[2]) or language == "ar"
    direction = {"en": "ltr", "ar": "rtl"}[language]
    assert turns.nth(3).locator(".text").get_attribute("dir") == direction
    assert_accessible(operator.page)
    operator.page.screenshot(path=pictures / f"{language}-conversation.png", full_page=True)
    operator.page.set_viewport_size(PHONE)
    assert operator.page.evaluate("document.documentElement.scrollWidth") <= 360


def test_a_full_review_by_keyboard_in_both_languages_and_nothing_that_was_received_tells_the_positions(
    operators: Operators, reviews: ReviewBench, pictures: Path
) -> None:
    english, arabic = operators("operator-1"), operators("operator-2", "ar")
    whole_review(english, reviews, pictures, "en")
    whole_review(arabic, reviews, pictures, "ar")
    for operator in (english, arabic):
        assert operator.complaints == []
        given = ballots(reviews, operator.name)
        for number, planned in enumerate(reviews.asked(operator.name)):
            ratings = given[planned.pair].ratings
            assert ratings == {
                "a.accuracy": 1,
                "a.helpfulness": 2,
                "a.tone": 3,
                "b.accuracy": 4,
                "b.helpfulness": number + 1,
                "b.tone": 5,
            }
            expected = "tie" if operator is arabic else ("a", "b", "tie")[number % 3]
            assert given[planned.pair].preference == expected
        with reviews.registry.reading() as session:
            guessed = [each.choice for each in session.query(Guess).filter(Guess.operator == operator.name)]
        assert sorted(guessed) == ["a", "b"]
        assert_nothing_tells(operator, reviews, operators.served.sent)
    assert_pages_are_alike(reviews, operators.served.sent)
    assert sorted(each.name for each in pictures.iterdir()) == [
        f"{language}-{what}.png" for language in ("ar", "en") for what in ("done", "guess", "pair", "phone")
    ]


def assert_nothing_tells(operator: Operator, reviews: ReviewBench, sent: list[Sent]) -> None:
    """No name, version, digest or seed in any URL, header, cookie, page, script or style."""
    plan, review = reviews.contents.plan, reviews.review
    digests = [review.plan_digest, plan.candidate_digest, plan.opponent_digest, plan.seed_sha256, review.record_digest]
    names = ["candidate", "opponent", "incumbent", "adapter", "base", "tiny", "lamps", "1.0.0", "sha256", "uvicorn"]
    forbidden = [*names, *(digest[:10] for digest in digests), reviews.seed.hex()[:10]]
    texts = [text for prompt in reviews.contents.prompts.values() for text in prompt.text.split("\n")]
    seen = []
    for each in sent:
        body = each.body
        for text in texts:  # the documents themselves are about lamps
            body = body.replace(text, "") if text else body
        seen += [each.path, each.headers, body]
    for cookie in operator.page.context.cookies():
        content = str(cookie["value"]).split(".")[0]
        seen += [str(cookie), base64.urlsafe_b64decode(content + "=" * (-len(content) % 4)).decode("latin-1")]
    seen.append(json.dumps(operator.page.evaluate("({...sessionStorage, ...localStorage})")))
    everything = "\n".join(seen).lower().replace("base-uri", "")  # a directive of the content policy
    assert len(everything) > 20_000
    assert [word for word in forbidden if re.search(rf"(?<![a-z]){re.escape(word.lower())}(?![a-z])", everything)] == []


def assert_pages_are_alike(reviews: ReviewBench, sent: list[Sent]) -> None:
    """With the texts and the ids taken out, a page on which the candidate is A is byte for byte one on which it is
    B."""
    shapes: dict[tuple[str, str], set[str]] = {}
    positions: Counter[str] = Counter()
    of_pair = {one.pair: (operator, one.prompt) for operator in reviews.operators for one in reviews.asked(operator)}
    for each in sent:
        body = each.body
        pair = next(iter(re.findall(r'data-pair="([^"]+)"', body)), None)
        if pair is None:
            continue
        operator, prompt = of_pair[pair]
        position = reviews.position_of(operator, pair)
        answers = reviews.answers[prompt]
        shown = {"a": answers.candidate, "b": answers.opponent}
        if position == "b":
            shown = {"a": answers.opponent, "b": answers.candidate}
        assert body.index(shown["a"]) < body.index(shown["b"])
        for text in (reviews.contents.prompts[prompt].text, *shown.values()):
            body = body.replace(text, "TEXT")
        body = re.sub(r'<div class="text" dir="(ltr|rtl)"', '<div class="text"', body)
        body = re.sub(r'data-(pair|form-token)="[^"]+"|<progress [^>]*>|<b>\d+</b>', "", body)
        kept = "\n".join(
            sorted(line for line in each.headers.splitlines() if not line.startswith(("date", "content-length")))
        )
        page = "guess" if 'id="guess"' in body else "ballot"
        language = re.findall(r'<html lang="(..)"', body)[0]
        shapes.setdefault((page, language), set()).add(body + kept)
        positions[position] += 1
    assert {key: len(found) for key, found in shapes.items()} == {
        (page, language): 1 for page in ("ballot", "guess") for language in ("en", "ar")
    }
    assert min(positions["a"], positions["b"]) >= 4


def test_texts_run_in_their_own_direction_and_every_choice_has_a_name_and_enough_contrast(
    operators: Operators, reviews: ReviewBench
) -> None:
    operator = operators("operator-1")
    operator.sign_in(token(reviews, "operator-1"))
    for planned in reviews.asked("operator-1"):
        expected = "rtl" if reviews.contents.prompts[planned.prompt].language == "ar" else "ltr"
        found = operator.page.eval_on_selector_all(
            ".text", "texts => texts.map(text => [text.dir, getComputedStyle(text).direction])"
        )
        assert found == [[expected, expected]] * 3
        operator.type("333333t")
        operator.record()
    operator.page.goto(operator.url)
    operator = operators("operator-2")
    operator.sign_in(token(reviews, "operator-2"))
    page = operator.page
    for position in ("A", "B"):
        for criterion in ("accuracy", "helpfulness", "tone"):
            group = page.get_by_role("group", name=f"Answer {position}, {criterion}")
            assert group.get_by_role("radio").count() == 5
    assert page.get_by_role("radio", name="Tie").count() == 1
    assert_accessible(page)
    page.keyboard.press("1")
    assert page.evaluate("document.activeElement.name") == "a.helpfulness"
