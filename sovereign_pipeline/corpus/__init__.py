"""Read an institution's files, quarantine broken rows, and inherit classification."""
