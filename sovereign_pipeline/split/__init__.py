"""Which documents are held out: near-duplicates, groups that stay together, the assignment and its proof.

What belongs here: deciding the side of every document and showing that nothing crosses. What does not: the shape of
training rows (`dataset/`), what the held-out side is used for (`evaluation/`).
"""
