"""The evaluation report: every figure, the criteria that a candidate must meet, the page, and the stage with its gates.

What does not belong here: how a figure is measured (the packages beside this one), and the margins
(`policy/margins.py`).
"""
