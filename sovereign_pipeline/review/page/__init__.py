"""The web page on which operators rate pairs and guess, one at a time.

What belongs here: HTTP, sessions, templates and their translations. What does not: what a review is and what is
recorded of it (`review/`). FastAPI is imported by every module but `sessions.py` and `translations.py`, so the package
is imported only where the page is served.
"""
