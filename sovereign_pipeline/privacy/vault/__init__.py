"""The vault of originals, and `sovereign-vault`, the program of the offline machine that opens it.

What belongs here: what works without the rest of the system, on a machine that has nothing else of it. What does not:
finding and replacing personal data.
"""
