"""Signing what the store seals, entering it into the ledger, and refusing what nobody signed.

What belongs here: the signatures of artifacts as this installation makes and verifies them. What does not: which
artifacts carry which (`artifacts/attested.py`).
"""
