"""Operators at real browsers."""

from collections.abc import Callable
from dataclasses import dataclass

from playwright.sync_api import Page

from sovereign_pipeline.record.tables import Ballot
from sovereign_pipeline_tests.browser import Visitor
from sovereign_pipeline_tests.review.conftest import ReviewBench
from sovereign_pipeline_tests.review.page.servers import InThisProcess


@dataclass
class Operator:
    """One operator at one browser. complaints: what the browser's console said."""

    name: str
    url: str
    page: Page
    complaints: list[str]

    def sign_in(self, token: str) -> None:
        self.page.goto(f"{self.url}/sign-in#{token}")
        self.record()
        self.page.wait_for_selector("#ballot")

    @property
    def pair(self) -> str:
        return str(self.page.get_attribute("form", "data-pair"))

    def type(self, keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def record(self) -> None:
        """Enter, and the next page, loaded: its script listens to keys from then on."""
        self.page.bring_to_front()  # else the browser draws nothing, and waiting looks once a frame
        with self.page.expect_navigation():
            self.page.keyboard.press("Enter")


@dataclass
class Operators:
    visitor: Callable[[str], Visitor]
    served: InThisProcess
    url: str

    def __call__(self, name: str, language: str = "en") -> Operator:
        visitor = self.visitor(language)
        return Operator(name, self.url, visitor.page, visitor.complaints)


def token(reviews: ReviewBench, name: str) -> str:
    assert reviews.opened is not None
    return reviews.opened.links[name]


def ballots(reviews: ReviewBench, name: str) -> dict[str, Ballot]:
    with reviews.registry.reading() as session:
        return {each.pair: each for each in session.query(Ballot).filter(Ballot.operator == name)}
