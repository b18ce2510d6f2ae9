"""Blind review: people compare a candidate with what it would replace, without knowing which answer is whose.

What belongs here: planning and opening a review, links, ballots, closing, and the result; the web page is in `page/`.
What does not: what an institution decides about a review (`policy/evaluation.py`), and the audit log
(`record/audit_log.py`).
"""
