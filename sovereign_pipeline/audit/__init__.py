"""What others take away to audit: evidence packages with a verifier of their own.

What belongs here: putting together what is on record for somebody who trusts nothing here. What does not: making any of
it, and verifying in place (`release/auditing.py`).
"""
