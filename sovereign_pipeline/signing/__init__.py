"""Keys, the trust root that says whose key counts for what, and signatures.

`sovereign-trust` is the program of the offline machine that keeps the root.

What belongs here: whether a signature is one, by whom, and in which role. What does not: what has to be signed before
something may be done (`artifacts/`, `registry/`), and in which order things were done (`ledger/`).
"""
