"""Dagster for the auditor, behind the proxies of `docs/proxies`."""
