"""Find structured identifiers by their form (`forms.py`), their label (`labels.py`) or their length (`numbers.py`), and
by the header cells of table columns (`recognizers.py`)."""
