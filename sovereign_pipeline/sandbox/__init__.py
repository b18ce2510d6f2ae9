"""The sandbox: running code that nobody here wrote, or that reads what a model wrote, without network and within
limits.

What does not belong here: which code is run, and what its end means.
"""
