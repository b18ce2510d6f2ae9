"""Evaluation suites and prompts: cards, rows, and the wording of prompts."""
