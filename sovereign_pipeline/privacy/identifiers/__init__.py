"""Find structured identifiers by label, form, check digits or length. `recognizers.py` lists all recognizers."""
