"""Write, measure and check a trainer's rows: SFT rows, preference pairs, and replies with binary feedback."""
