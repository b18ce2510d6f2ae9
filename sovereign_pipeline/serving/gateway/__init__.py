"""The gateway: OpenAI's API before an engine, for callers who show who they are.

What belongs here: requests, who may send them, limits, answers, and what is counted of them. What does not: how an
answer is computed (`engines/`), and which adapters there are (`deployment.py`).
"""
