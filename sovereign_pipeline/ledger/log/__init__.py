"""The append-only log: an RFC 6962 tree of entries, its signed checkpoints, its second copy, its witnesses, proofs.

What belongs here: the form of the log, and what vouches for it. What does not: what entries say (`audit_log.py` and
whoever appends), and opening the database.
"""
