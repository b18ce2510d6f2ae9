"""What computes answers: one base model with several adapters beside it.

What belongs here: engines behind the one Protocol of `engine.py`. What does not: who may ask (`gateway/`), and which
adapters may be loaded (`deployment.py`).
"""
