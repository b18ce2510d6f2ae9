"""Blind review: people compare a candidate with what it would replace, without knowing which answer is whose.

What belongs here: planning and opening a review, the page and its sign-in, ballots, closing, and what follows from
them. What does not: what an institution decides about a review (`policy/review.py`), and the audit log
(`registry/audit.py`).
"""
