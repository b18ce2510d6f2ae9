"""The hold: whether a staged adapter does as well as the one in production, from what the gateway counts.

What belongs here: counting without texts, comparing, and what follows. What does not: who gets which adapter
(`flags/`), and promoting, which officers do (`release/`).
"""
