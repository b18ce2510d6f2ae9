"""Find structured identifiers by form (`forms.py`), label (`labels.py`) or length (`numbers.py`), and in tables."""
