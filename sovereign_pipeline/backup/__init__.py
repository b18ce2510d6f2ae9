"""Copies of an installation: taking one while work goes on, restoring it elsewhere, and repairing artifacts from it.

What belongs here: what a copy holds, and how it comes back. What does not: what crosses the air gap (`bundle/`).
"""
