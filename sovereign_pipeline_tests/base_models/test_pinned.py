"""Cards and model directories: what is missing, extra, changed or unknown is named."""

from pathlib import Path

import pytest
import yaml

from sovereign_pipeline.base.errors import IntegrityError, RecipeError, Remedy
from sovereign_pipeline.base.files import file_sha256
from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.base.text import silent
from sovereign_pipeline.base_models.fetching import fetch
from sovereign_pipeline.base_models.stages import BASE_MODEL, card_path, load_card, model_directory, verify
from sovereign_pipeline.record.production import produce
from sovereign_pipeline_tests.conftest import DemoInstitution


@pytest.fixture
def directory(institution: DemoInstitution) -> Path:
    institution.write()
    return model_directory(institution.settings, load_card(institution.settings, "tiny"))


def test_a_model_with_a_directory_is_verified_and_never_fetched(institution: DemoInstitution, directory: Path) -> None:
    assert fetch(institution.settings, "tiny", silent) == directory


@pytest.mark.parametrize(
    ("fault", "named", "can_be_fetched"),
    [
        ("missing", "config.json", True),
        ("changed", "config.json", True),
        ("extra", "pickle.bin", False),
        ("absent", "base model tiny is missing", True),
    ],
)
def test_verifying_names_what_is_wrong(
    institution: DemoInstitution, directory: Path, fault: str, named: str, can_be_fetched: bool
) -> None:
    card, file = load_card(institution.settings, "tiny"), directory / "config.json"
    if fault == "missing":
        file.unlink()
    elif fault == "changed":
        file.write_bytes(file.read_bytes() + b" ")
    elif fault == "extra":
        (directory / "pickle.bin").write_bytes(b"x")
    else:
        directory.rename(directory.with_name("elsewhere"))
    with pytest.raises(IntegrityError, match=named) as refusal:
        verify(institution.settings, card, silent)
    assert refusal.value.remedy == (Remedy("fetch_model", {"model": "tiny"}) if can_be_fetched else None)


@pytest.mark.security_case(
    "A directory with another chat template is linked into the base model", "rejected before the model is loaded"
)
@pytest.mark.parametrize("inside", ["", "original/"])
def test_a_linked_directory_does_not_belong_to_the_model(
    institution: DemoInstitution, directory: Path, inside: str, tmp_path: Path
) -> None:
    (tmp_path / "default.jinja").write_text("{{ messages[0].content }}")
    (directory / inside).mkdir(exist_ok=True)
    (directory / inside / "additional_chat_templates").symlink_to(tmp_path, target_is_directory=True)
    with pytest.raises(IntegrityError, match=f"{inside}additional_chat_templates: this file does not belong"):
        verify(institution.settings, load_card(institution.settings, "tiny"), silent)


def test_a_model_whose_prompts_change_with_the_day_is_refused(institution: DemoInstitution, directory: Path) -> None:
    (directory / "chat_template.jinja").write_text("{{ strftime_now('%d %b %Y') }}")
    path = card_path(institution.settings, "tiny")
    card = yaml.safe_load(path.read_text())
    card["files"] = {file.name: file_sha256(file) for file in directory.iterdir()}
    path.write_text(yaml.safe_dump(card))
    with pytest.raises(RecipeError, match="strftime_now") as refusal:
        produce(BASE_MODEL, institution.workplace(), {})
    assert "fixed date" in refusal.value.hint and "model's card" in refusal.value.hint


def test_a_template_beside_a_card_of_the_project_is_the_pinned_one() -> None:
    cards = [yaml.safe_load(path.read_text()) for path in (PROJECT_ROOT / "data" / "models").glob("*.yaml")]
    named = {card["name"]: card["source"].get("package", {}).get("chat_template") for card in cards}
    assert named["smollm2-135m-tools"] == "chatml-tools.jinja"
    for card in cards:
        if name := named[card["name"]]:
            assert file_sha256(PROJECT_ROOT / "data" / "models" / name) == card["files"]["chat_template.jinja"]
