"""Encrypted transcripts: what a line's callers asked and got, for whoever holds the private key on another machine.

What belongs here: sealing and keeping records, `sovereign-transcripts`, which opens them, and taking in what it makes
of rated answers. What does not: answering (`gateway/`), the vault of originals (`privacy/vault/`).
"""
