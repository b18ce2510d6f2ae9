"""The life of a registered adapter: who asked, who agreed, and in which state it is since when.

What belongs here: transitions and what each needs. What does not: reading states (`ledger/states.py`), the rules of the
institution (`policy/release.py`), and serving what is in production.
"""
