"""An institution with two base models, and a registered adapter."""

import json
import shutil
from pathlib import Path

import pytest

from sovereign_pipeline.record.tables import Adapter
from sovereign_pipeline_tests.conftest import DemoInstitution, letter
from sovereign_pipeline_tests.tiny_model import save_tiny_model, write_card
from sovereign_pipeline_tests.training.continuation.chain import OLD, Office


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [json.dumps(letter(number)) for number in range(60)]
    return save_tiny_model(tmp_path_factory.mktemp("models") / "small", texts)


@pytest.fixture
def office(institution: DemoInstitution, small_model: Path) -> Office:
    for name in ("small", "other"):
        directory = institution.root / "mirror" / name
        shutil.copytree(small_model, directory)
        if name == "other":
            (directory / "config.json").write_text((directory / "config.json").read_text() + "\n")
        write_card(institution.settings.data, name, directory)
    return Office(institution)


@pytest.fixture
def lamps(office: Office) -> Adapter:
    """lamps-1.0.0, CONFIDENTIAL through one of its letters."""
    rows = [dict(row, classification="CONFIDENTIAL" if number == 3 else "PUBLIC") for number, row in enumerate(OLD)]
    adapter, _ = office.register(office.line("lamps", rows))
    assert (adapter.id, adapter.classification) == ("lamps-1.0.0", "CONFIDENTIAL")
    return adapter
