"""Content-addressed artifacts: what they are, where they are stored, how they are made, and the gates on them.

What belongs here: everything that is true of every artifact. What does not: what any particular artifact contains.
"""
