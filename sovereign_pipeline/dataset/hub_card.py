"""`README.md` of a dataset: the card that model hubs and `datasets.load_dataset` read.

What belongs here: the names of configurations and splits, and the types of columns, as YAML before the text. What does
not: what the dataset holds and where it comes from (`card.py`).
"""

from collections.abc import Iterator
from typing import Any

import yaml

from sovereign_pipeline.dataset.card import DataFile, DatasetCard
from sovereign_pipeline.dataset.files import (
    CARD,
    CARD_FOR_PEOPLE,
    LABEL_ROWS,
    MESSAGES_ROWS,
    PREFERENCE_ROWS,
    TRAINING_ROWS,
)
from sovereign_pipeline.dataset.formats import LabelRow, Message, MessagesRow, PreferenceRow, SftRow

SPLIT = "train"
"""The only one: what is held out is no part of a dataset."""
_ROWS: dict[str, type] = {
    TRAINING_ROWS: SftRow,
    MESSAGES_ROWS: MessagesRow,
    PREFERENCE_ROWS: PreferenceRow,
    LABEL_ROWS: LabelRow,
}
_TYPES: dict[Any, dict[str, object]] = {
    str: {"dtype": "string"},
    bool: {"dtype": "bool"},
    list[Message]: {"list": [{"name": name, "dtype": "string"} for name in Message.__annotations__]},
}
"""Type of a column -> what the library calls it."""


def hub_card(card: DatasetCard) -> str:
    """The content of `README.md`."""
    files = (card.file, *card.also)
    front_matter = yaml.safe_dump(
        {
            "pretty_name": f"{card.kind} of line {card.line}",
            "language": sorted(card.by_language),
            "license": "other",
            "configs": list(_configurations(files)),
            "dataset_info": [
                {"config_name": _configuration_of(file), "features": list(_features(file.path))} for file in files
            ],
        },
        sort_keys=False,
        allow_unicode=True,
    )
    return (
        f"---\n{front_matter}---\n\n"
        f"# {card.kind} of line {card.line}\n\n"
        f"Classification **{card.classification}**. [`{CARD_FOR_PEOPLE}`]({CARD_FOR_PEOPLE}) is the data card, with "
        f"the terms of each source; [`{CARD}`]({CARD}) has the same facts for programs.\n\n"
        f"`datasets.load_dataset` reads this directory, and copies the rows into its own cache: keep "
        f"`HF_DATASETS_CACHE` where {card.classification} may lie.\n"
    )


def _configuration_of(file: DataFile) -> str:
    return file.path.removesuffix(".jsonl") if file.path == MESSAGES_ROWS else "default"


def _configurations(files: tuple[DataFile, ...]) -> Iterator[dict[str, object]]:
    for file in files:
        yield {
            "config_name": _configuration_of(file),
            "data_files": [{"split": SPLIT, "path": file.path}],
        }


def _features(path: str) -> Iterator[dict[str, object]]:
    for name, kind in _ROWS[path].__annotations__.items():
        yield {"name": name, **_TYPES[kind]}
