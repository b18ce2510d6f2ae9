"""Write, measure and check the rows for a trainer: SFT rows, preference pairs, binary feedback."""
