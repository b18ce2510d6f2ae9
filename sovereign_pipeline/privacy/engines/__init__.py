"""Scrubbing a whole file of documents: in this process, by a pool of processes, or by actors of Ray.

What belongs here: how a file is cut into batches, who works on them, how the result is written. `engine.py` chooses the
engine; every engine gives the same bytes. What does not: scrubbing itself (`privacy/scrubbing.py`).
"""
