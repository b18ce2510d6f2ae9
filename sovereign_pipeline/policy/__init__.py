"""The institution's rules as typed models: the classification ladder, the line recipe, the gates' limits.

What belongs here: what an institution decides and writes into YAML, and pure functions of it.
What does not: reading documents, judging artifacts, anything with a side effect.
"""
