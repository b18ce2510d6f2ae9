"""The line's own held-out documents: loss and choice on the true reply, and generated replies compared with it.

What does not belong here: which documents are held out (`split/`), and the margins (`policy/margins.py`).
"""
