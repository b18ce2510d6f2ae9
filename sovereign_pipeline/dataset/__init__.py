"""Write, measure and check the rows that a trainer reads: SFT rows, preference pairs, and replies with binary
feedback."""
