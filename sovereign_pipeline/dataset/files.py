"""Names of the files in a dataset."""

TRAINING_ROWS = "train.jsonl"
MESSAGES_ROWS = "messages.jsonl"
PREFERENCE_ROWS = "preferences.jsonl"
LABEL_ROWS = "labels.jsonl"
CARD = "card.json"
CARD_FOR_PEOPLE = "card.md"
