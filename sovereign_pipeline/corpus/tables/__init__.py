"""Tables of text, such as CSV and TSV: their lines, their cells, and quotes that were lost.

What belongs here: text to rows. What does not: other formats (`corpus/file_formats.py`), what a row means
(`corpus/documents_from_rows.py`).
"""
