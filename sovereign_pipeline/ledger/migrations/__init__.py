"""Alembic migrations of the registry. They are run by `open_registry`; nobody needs to call Alembic.

Each file under `versions/` brings the tables one step further. Registered rows are never rewritten by a migration.
"""
