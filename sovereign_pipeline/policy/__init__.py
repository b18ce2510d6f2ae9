"""The institution's rules as typed models: the classification ladder, the line recipe, the gates' margins.

What belongs here: what an institution decides and writes into YAML, pure functions of it, and its reference
(`reference.py`). What does not: reading documents, evaluating artifacts, anything with a side effect.
"""
