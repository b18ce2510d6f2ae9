"""An institution with two base models, and a registered adapter."""

import json
import shutil
from pathlib import Path

import pytest

from sovereign_pipeline.record.tables import Adapter
from sovereign_pipeline_tests.conftest import DemoInstitution, letter, minimal_recipe
from sovereign_pipeline_tests.tiny_model import save_tiny_model, write_card
from sovereign_pipeline_tests.training.continuation.chain import OLD, Office


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    texts = [json.dumps(letter(number)) for number in range(60)]
    return save_tiny_model(tmp_path_factory.mktemp("models") / "small", texts)


def _office(institution: DemoInstitution, small_model: Path) -> Office:
    for name in ("small", "other"):
        directory = institution.root / "mirror" / name
        shutil.copytree(small_model, directory)
        if name == "other":
            (directory / "config.json").write_text((directory / "config.json").read_text() + "\n")
        write_card(institution.settings.data, name, directory)
    return Office(institution)


@pytest.fixture
def office(institution: DemoInstitution, small_model: Path) -> Office:
    return _office(institution, small_model)


@pytest.fixture(scope="session")
def registered(tmp_path_factory: pytest.TempPathFactory, small_model: Path) -> tuple[Path, Adapter]:
    """The directory of an institution that registered lamps-1.0.0, CONFIDENTIAL through one of its letters."""
    root = tmp_path_factory.mktemp("registered")
    office = _office(DemoInstitution(root, minimal_recipe(), []), small_model)
    rows = [dict(row, classification="CONFIDENTIAL" if number == 3 else "PUBLIC") for number, row in enumerate(OLD)]
    adapter, _ = office.register(office.line("lamps", rows))
    assert (adapter.id, adapter.classification) == ("lamps-1.0.0", "CONFIDENTIAL")
    return root, adapter


@pytest.fixture
def lamps(office: Office, registered: tuple[Path, Adapter]) -> Adapter:
    """lamps-1.0.0 in a copy of that institution."""
    root, adapter = registered
    shutil.copytree(root, office.institution.root, dirs_exist_ok=True)
    return adapter
