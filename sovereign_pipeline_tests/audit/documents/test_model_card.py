"""The model card: front matter that the hub's own class reads, and what is on record in clear."""

from huggingface_hub import ModelCard

from sovereign_pipeline_tests.audit.conftest import FIRST, Desk


def test_the_hubs_tools_read_its_front_matter(desk: Desk) -> None:
    card = ModelCard(desk.package.files[f"documents/{FIRST}/model-card.md"].decode())
    data = card.data.to_dict()  # type: ignore[no-untyped-call]
    assert (data["base_model"], data["library_name"], data["pipeline_tag"]) == ("tiny", "peft", "text-generation")
    assert (data["license"], data["license_name"]) == ("other", "Apache-2.0")
    assert "classification:PUBLIC" in data["tags"]


def test_it_shows_waivers_issues_and_figures_and_says_what_is_not_known(desk: Desk) -> None:
    text = desk.package.files[f"documents/{FIRST}/model-card.md"].decode()
    for words in (
        "- It takes candles for lamps.",
        "| evaluation_report.capability_not_inferior | inconclusive |",
        "**Waived:** The suite is being enlarged.",
        "| held-out loss, against the base | 2.25 | 2.5 | -0.25 | -0.375 to -0.125 |",
        "Not known to this system: team:lamps is to write it.",
        "| provider | Lamp Office |",
    ):
        assert words in text, words
