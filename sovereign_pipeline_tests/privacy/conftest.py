"""A scrubber without a model (quick), and one with the English model (loaded once)."""

import pytest

from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.privacy.case_files import ScrubbedCase
from sovereign_pipeline.privacy.scrubbing import Scrubber


def document(request: str = "", **changes: object) -> Document:
    fields = {
        "id": "R-1",
        "source": "letters",
        "case": "PRM/2024/017",
        "department": "permits",
        "author": "",
        "date": "2024-03-11",
        "classification": "INTERNAL",
        "language": "en",
        "subject": "",
        "request": request,
        "response": "",
    }
    return Document.model_validate({**fields, **changes})


def scrub(scrubber: Scrubber, *documents: Document) -> ScrubbedCase:
    return scrubber.scrub([documents])[0]


@pytest.fixture(scope="session")
def patterns_only() -> Scrubber:
    return Scrubber("lamps", "run", Privacy(name_models={}))


@pytest.fixture(scope="session")
def with_model() -> Scrubber:
    return Scrubber("lamps", "run", Privacy())
