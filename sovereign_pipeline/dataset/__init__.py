"""The rows a trainer reads: SFT and preference formats, their JSONL, the dataset card.

What belongs here: from the training documents of a split to rows, their measurement and their gates. What does not:
which documents are held out (`split/`), encoding and loss (`training/`).
"""
