"""A BERT of two layers that labels names in invented Arabic sentences, trained in seconds."""

import json
import random
import shutil
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

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


def copied(model: Path, target: Path, **changes: object) -> Path:
    """The same model with changes of its configuration."""
    shutil.copytree(model, target)
    config = json.loads((target / "config.json").read_text())
    (target / "config.json").write_text(json.dumps({**config, **changes}))
    return target
