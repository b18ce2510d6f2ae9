"""`sovereign adapters`: registered adapters, and what officers decide about them."""
