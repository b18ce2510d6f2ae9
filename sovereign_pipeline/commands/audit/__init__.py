"""`sovereign audit`: the ledger, and whose names stand behind its commitments."""
