"""Base models: their cards under `data/models/`, fetching, verifying before each use, and their shape.

What belongs here: everything that is true of a base model before it is trained on. What does not: adapters
(`training/`), and running a model (`evaluation/arms/`).
"""
