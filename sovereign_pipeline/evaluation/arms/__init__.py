"""The arms of a comparison (base, incumbent, candidate): loading their models, scoring texts and generating answers.

Everything that decides a score belongs here, and nothing else: the digest of this package's sources is part of the
identity of a cached score. Which texts are scored, and what follows from the scores, is in the packages beside it.
"""
