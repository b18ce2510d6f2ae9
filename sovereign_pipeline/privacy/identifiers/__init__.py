"""Find structured identifiers by form (`forms.py`), label (`labels.py`, `tables.py`) or length (`numbers.py`)."""
