"""Flags: which adapter answers whom of a line, as flagd has it, each change numbered and signed by the pipeline.

What belongs here: writing a flag, reading it, and who gets what by it. What does not: which state an adapter has
(`release/`), and loading one (`serving/deployment.py`).
"""
