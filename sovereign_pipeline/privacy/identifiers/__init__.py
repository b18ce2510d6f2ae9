"""Find structured identifiers by their form (`forms.py`), their label (`labels.py`) or their length (`numbers.py`), and
by the heads of table columns (`recognizers.py`)."""
