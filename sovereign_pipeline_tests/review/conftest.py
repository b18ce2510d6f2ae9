"""A line with a registered adapter and a review of it: everything real but the models, whose answers are planted."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import pytest

from sovereign_pipeline.corpus.document import read_documents
from sovereign_pipeline.record.database import Registry
from sovereign_pipeline.record.gates import evaluate_gates
from sovereign_pipeline.record.production import produce
from sovereign_pipeline.record.stage import Stage, Verdict, Workplace
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline.record.tables import Adapter, BlindReview, ReviewClosing, SignInLink
from sovereign_pipeline.review import ballots
from sovereign_pipeline.review.acts import sealed_seed
from sovereign_pipeline.review.ballots import SignedIn
from sovereign_pipeline.review.closing import close
from sovereign_pipeline.review.opening import Opened, ReviewRequest, open_review
from sovereign_pipeline.review.plan import (
    AnswerPair,
    PlanContents,
    PlannedPair,
    Position,
    Prompt,
    answers_of,
    candidate_positions,
    plan_of,
)
from sovereign_pipeline.review.stages import blind_review_stage
from sovereign_pipeline_tests.conftest import DemoInstitution, letter
from sovereign_pipeline_tests.officers import officer_called
from sovereign_pipeline_tests.registry.bench import REGISTERED_ADAPTER, Bench

BLIND_REVIEW = blind_review_stage(REGISTERED_ADAPTER)


ARABIC_LETTERS = "أرجو إفادتي متى يُصلح المصباح رقم {number} على رصيف الميناء القديم؟"

ARABIC_REPLY = "نفيدكم بأن المصباح قد تم إصلاحه بعد وصول القطع اللازمة:"


def row(number: int) -> dict[str, Any]:
    if number % 2 == 0:
        return letter(number)
    reply = f"{ARABIC_REPLY} {letter(number)['response'].partition('. ')[2]}"
    request = ARABIC_LETTERS.format(number=number)
    return letter(number, language="ar", subject=f"المصباح {number}", request=request, response=reply)


@dataclass
class Planted:
    """Answers in the place of two models."""

    same: frozenset[int] = frozenset()
    """Numbers of the prompts, in their order, to which both arms give the same answer."""
    dtype: str = "float32"
    given: int = 0

    @contextmanager
    def open(self, workplace: Workplace, candidate: Artifact, opponent: Artifact | None) -> Iterator["Planted"]:
        yield self

    def fits(self, prompt: Prompt, max_new_tokens: int) -> bool:
        return True

    def answer(self, prompts: Sequence[Prompt], max_new_tokens: int, batch_size: int) -> list[AnswerPair]:
        def say(prompt: Prompt, number: int, is_first: bool) -> str:
            if prompt.language == "ar":
                return f"NAME_1، هذه هي الصيغة {'الأولى' if is_first else 'الأخرى'} للجواب رقم {number}."
            return f"NAME_1, this is the {'first' if is_first else 'other'} wording of answer {number}."

        answers = [
            AnswerPair(
                id=prompt.id, candidate=say(prompt, number, True), opponent=say(prompt, number, number in self.same)
            )
            for number, prompt in enumerate(prompts, self.given)
        ]
        self.given += len(prompts)
        return answers


@dataclass
class ReviewBench:
    """A line whose registered adapter is reviewed."""

    bench: Bench
    planted: Planted = field(default_factory=Planted)
    opened: Opened | None = None
    """The review, once `open` was called."""

    @cached_property
    def registry(self) -> Registry:
        return self.bench.open_registry()

    def with_adapter(self) -> Adapter:
        return self.bench.register()

    def another_adapter(self) -> Adapter:
        """One more version of the line, trained on one document more."""
        self.bench.institution.rows.append(row(len(self.bench.institution.rows)))
        return self.bench.register()

    def same_weights_again(self) -> Adapter:
        """One more version of the line whose training came to the same bytes under another recipe."""
        self.bench.recipe["training"].setdefault("sft", {})["max_cut_share"] = 0.03
        return self.bench.register()

    def recipe(self, **review: Any) -> None:
        self.bench.recipe["gates"] = {"review": {"prompts_each": 2, "shared_prompts": 2, "guess_pairs": 2, **review}}

    def open(self, **changes: Any) -> Opened:
        for known in ("seed", "contents", "answers"):  # of the review before
            self.__dict__.pop(known, None)
        self.opened = open_review(
            self.registry,
            self.bench.workplace(),
            replace(
                ReviewRequest("clerk", candidate_stage=REGISTERED_ADAPTER, open_contenders=self.planted.open), **changes
            ),
        )
        return self.opened

    @property
    def review(self) -> BlindReview:
        assert self.opened is not None
        with self.registry.reading() as session:
            return session.get_one(BlindReview, self.opened.review)

    @cached_property
    def seed(self) -> bytes:
        return sealed_seed(self.bench.settings, self.review)

    @cached_property
    def contents(self) -> PlanContents:
        return plan_of(self.bench.store, self.review)

    @cached_property
    def answers(self) -> dict[str, AnswerPair]:
        return answers_of(self.bench.store, self.review, self.seed)

    @property
    def operators(self) -> list[str]:
        return list(self.contents.plan.operators)

    def asked(self, operator: str) -> list[PlannedPair]:
        return self.contents.asked(operator)

    def position_of(self, operator: str, pair: str) -> Position:
        """Where the candidate's answer is shown."""
        return candidate_positions(self.seed, operator, self.contents.plan.operators[operator])[pair]

    def vote(self, operator: str, pair: str, outcome: int, ratings: tuple[int, int] = (3, 3)) -> None:
        """outcome: 1 for the candidate, -1 for its opponent, 0 for a tie. ratings: of candidate and opponent."""
        position = self.position_of(operator, pair)
        other: Position = "b" if position == "a" else "a"
        preference: ballots.Preference = "tie" if outcome == 0 else position if outcome > 0 else other
        rating_at = {position: ratings[0], other: ratings[1]}
        given = {
            name: rating_at["a" if name.startswith("a.") else "b"]
            for name in ballots.ratings_asked(self.contents.plan.criteria)
        }
        ballots.give_ballot(self.registry, self.bench.settings, self.signed_in(operator), pair, preference, given)

    def guess(self, operator: str, pair: str, choice: Position) -> None:
        ballots.give_guess(self.registry, self.bench.settings, self.signed_in(operator), pair, choice)

    def signed_in(self, operator: str) -> SignedIn:
        """Somebody whom the institution's proxy names."""
        return SignedIn(self.review.id, operator)

    def vote_all(self, outcome: int) -> None:
        for operator in self.operators:
            for each in self.asked(operator):
                self.vote(operator, each.pair, outcome, (4, 2) if outcome > 0 else (2, 4))

    def reviewed(self, outcome: int) -> ReviewClosing:
        """Open, rate and close a review, in which everybody likes the same arm better."""
        self.open()
        self.vote_all(outcome)
        return self.close()

    def nothing_was_opened(self) -> bool:
        with self.registry.reading() as session:
            seeds = list(self.bench.settings.review_secrets.glob("*.seed"))
            return session.query(BlindReview).count() == session.query(SignInLink).count() == len(seeds) == 0

    def documents(self, side: str) -> set[str]:
        """Ids of a side of the split: `train` or `held_out`."""
        split = self.bench.artifact("leakage_safe_split")
        return {each.id for each in read_documents(split.file(f"{side}.jsonl"))}

    def close(self, **early: str) -> ReviewClosing:
        """early: `officer`, by name, and `reason`."""
        seed = self.seed  # which stays readable, as closing reveals it
        assert seed
        settings = self.bench.settings
        signer = officer_called(settings, early["officer"]) if "officer" in early else None
        return close(self.registry, settings, self.review, self.contents, "clerk", signer, early.get("reason"))

    def materialize(self, stage: Stage = BLIND_REVIEW) -> tuple[Artifact, dict[str, Verdict]]:
        workplace = self.bench.workplace()
        ref = produce(stage, workplace, {"registered_adapter": self.bench.refs["registered_adapter"]}).ref
        workplace.store.make_current(workplace.line.line, stage.kind, ref)
        return workplace.store.open(ref), evaluate_gates(stage, workplace, ref)


@pytest.fixture
def bench(institution: DemoInstitution) -> Bench:
    institution.rows = [row(number) for number in range(60)]
    bench = Bench(institution)
    bench.with_base_model("tiny")
    return bench


@pytest.fixture
def reviews(bench: Bench) -> ReviewBench:
    """A registered adapter; five operators with two documents each and two for all."""
    reviews = ReviewBench(bench)
    reviews.recipe()
    reviews.with_adapter()
    return reviews
