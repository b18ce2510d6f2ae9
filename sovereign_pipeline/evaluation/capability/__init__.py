"""Capability suites: asking every row of every arm, and deciding what is right.

What does not belong here: the suites' files, rows and prompts (`suites/`), and the margins (`policy/margins.py`).
"""
