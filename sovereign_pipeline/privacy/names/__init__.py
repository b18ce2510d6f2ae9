"""Names of people: found by patterns and by name models, and joined to persons within a case file.

What belongs here: word lists, patterns by script, name models, who is whom. What does not: identifiers
(`privacy/identifiers/`), numbering placeholders (`privacy/spans.py`).
"""
