"""Names of the files in a dataset, and the ids of its rows.

What belongs here: what is true of every kind of dataset. What does not: the rows' other columns (`formats.py`).
"""

from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.corpus.document import read_jsonl
from sovereign_pipeline.errors import IntegrityError

TRAINING_ROWS = "train.jsonl"
MESSAGES_ROWS = "messages.jsonl"
PREFERENCE_ROWS = "preferences.jsonl"
LABEL_ROWS = "labels.jsonl"
CARD = "card.json"
CARD_FOR_PEOPLE = "card.md"
CARD_FOR_HUBS = "README.md"


def row_ids(dataset: Artifact) -> set[str]:
    """The ids in a dataset's files of rows: those of the documents that are trained on, and of canaries.

    Raises IntegrityError for a dataset without such a file.
    """
    names = {entry.path for entry in dataset.manifest.files} & {TRAINING_ROWS, PREFERENCE_ROWS, LABEL_ROWS}
    if not names:
        raise IntegrityError(f"{dataset.path}: this dataset has no file of rows.", "Restore it from a copy.")
    return {str(row["id"]) for name in names for row in read_jsonl(dataset.file(name))}
