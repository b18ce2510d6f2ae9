"""Evidence packages about adapters, and the standalone verifier in them."""
