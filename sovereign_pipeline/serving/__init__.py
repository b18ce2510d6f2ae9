"""Serving: registered, approved and verified adapters answer, and nothing else does.

What belongs here: engines, which adapters they are given, and the gateway before them. What does not: deciding which
adapter is staged or in production (`release/`).
"""
