"""MODULE DOCSTRING."""

TRAINING_ROWS = "train.jsonl"


MESSAGES_ROWS = "messages.jsonl"


PREFERENCE_ROWS = "preferences.jsonl"


LABEL_ROWS = "labels.jsonl"


CARD = "card.json"


CARD_FOR_PEOPLE = "card.md"


CHAIN_TO_THE_SOURCES = ("scrubbed_corpus", "classified_corpus", "raw_corpus")


IDS_IN_A_MESSAGE = 10


ROWS_PER_BATCH = 64
