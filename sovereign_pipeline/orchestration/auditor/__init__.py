"""Dagster for the auditor: pages and queries of assets and runs, for whom the institution's proxy names, on record.

What belongs here: who is let in, what may be asked, and who looked at what. What does not: the operators' Dagster
(`dagster_ui.py`), and the proxies' configurations (`docs/proxies`).
"""
