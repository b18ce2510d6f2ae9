"""Operators at real browsers."""

from dataclasses import dataclass, field

from playwright.sync_api import Browser, BrowserContext, Page

from sovereign_pipeline.ledger.tables import Ballot
from sovereign_pipeline_tests.review.conftest import ReviewBench
from sovereign_pipeline_tests.review.page.servers import InThisProcess
from sovereign_pipeline_tests.waiting import SECONDS

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")


FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)


DESKTOP, PHONE = {"width": 1200, "height": 900}, {"width": 360, "height": 740}


@dataclass
class Operator:
    """One operator at one browser. complaints: what the browser's console said."""

    name: str
    url: str
    context: BrowserContext
    page: Page
    complaints: list[str] = field(default_factory=list)

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
    chromium: Browser
    served: InThisProcess
    url: str
    contexts: list[BrowserContext] = field(default_factory=list)

    def __call__(self, name: str, language: str = "en") -> Operator:
        context = self.chromium.new_context(locale=language, viewport=DESKTOP)  # type: ignore[arg-type]
        context.set_default_timeout(SECONDS * 1000)
        self.contexts.append(context)
        operator = Operator(name, self.url, context, context.new_page())
        operator.page.on("console", lambda message: operator.complaints.append(message.text))
        operator.page.on("pageerror", lambda error: operator.complaints.append(str(error)))
        return operator


def token(reviews: ReviewBench, name: str) -> str:
    assert reviews.opened is not None
    return reviews.opened.links[name]


def ballots(reviews: ReviewBench, name: str) -> dict[str, Ballot]:
    with reviews.registry.reading() as session:
        return {each.pair: each for each in session.query(Ballot).filter(Ballot.operator == name)}
