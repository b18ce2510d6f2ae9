"""Keys, signatures, artifacts with their gates, the audit ledger and the registry's tables."""
