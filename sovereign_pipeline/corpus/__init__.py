"""Read an institution's files, quarantine broken rows, and give each document the highest level of its case."""
