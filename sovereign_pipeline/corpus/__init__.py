"""Reading an institution's files, validating and quarantining rows, and inheriting classification.

What belongs here: everything up to a document with its level. What does not: personal data (`privacy/`), who may learn
from what (`split/`).
"""
