"""The ledger's database: tables, migrations, the audit log, and look-ups in what is registered.

What belongs here: what is on record, and that it only grows. What does not: what a record must satisfy before it is
entered (`registry/`, `review/`).
"""
