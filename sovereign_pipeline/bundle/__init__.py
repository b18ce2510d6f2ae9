"""What crosses the air gap: packing a bundle on the connected side, verifying it inside, and installing from it alone.

What belongs here: the folder that is carried. What does not: what is made inside (`artifacts/`), and its backup.
"""
