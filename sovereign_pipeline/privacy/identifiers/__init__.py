"""Structured identifiers: what a label, a form, a check digit or the length of a number tells.

What belongs here: patterns and checks over one normalised text; `recognizers.py` lists them all. What does not: names
of people (`privacy/names/`), the choice between findings that overlap (`privacy/spans.py`).
"""
