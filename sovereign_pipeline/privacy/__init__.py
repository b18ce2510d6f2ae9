"""Replacing personal data by placeholders, and keeping the way back where the training side cannot read it.

What belongs here: finding identifiers and names, placeholders, the canary, the vault. What does not: reading or
classifying documents (`corpus/`), deciding which line runs which detector (`policy/corpus.py`).
"""
