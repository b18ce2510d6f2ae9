"""The rows a trainer reads: SFT and preference formats, their JSONL, the dataset card.

What belongs here: turning scrubbed documents into training rows. What does not: choosing which documents (`split/`),
tokens (`training/`).
"""
