"""Content-addressed artifacts: what they are, where they lie, how one is made from others, and which gates hold them.

What belongs here: everything that is true of every artifact. What does not: what any particular artifact contains.
"""
