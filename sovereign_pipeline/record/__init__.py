"""What is on record: keys and signatures, artifacts with their gates, and the ledger with the registry's tables."""
