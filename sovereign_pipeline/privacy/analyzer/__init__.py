"""Presidio's analyzer as the engine that runs the recognizers: those of this project, and those that a recipe adds.

What belongs here: everything that touches Presidio. What does not: what an identifier or a name looks like
(`identifiers/`, `names/`), numbering, and the vault.
"""
