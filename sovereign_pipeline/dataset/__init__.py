"""Write the rows that a trainer reads, measure them, and check them: SFT, preference pairs, binary feedback."""
