"""Reading an institution's files, quarantining broken rows, and inheriting classification.

What belongs here: everything up to a document with its classification level. What does not: personal data (`privacy/`),
what is trained and what is held out (`split/`).
"""
