"""Capability suites: asking every row of every arm, deciding what is right, and running generated code in a sandbox.

What does not belong here: the suites' files, rows and prompts (`suites/`), and the margins (`policy/margins.py`).
"""
