"""Structured identifiers, found by label, form, check digits or length. `recognizers.py` lists them all."""
