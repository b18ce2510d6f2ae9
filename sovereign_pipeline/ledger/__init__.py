"""The ledger: database and tables, the audit log with its tree, checkpoints and witnesses, and look-ups.

What belongs here: what is on record, and that it only grows. What does not: what a record must satisfy before it is
entered (`registry/`, `review/`).
"""
