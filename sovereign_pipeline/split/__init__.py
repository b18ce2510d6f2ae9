"""Which documents are held out: near-duplicates, groups that stay together, the assignment and its proof.

What belongs here: assigning every document to training or held-out, and proving that nothing crosses. What does not:
the training rows (`dataset/`), the use of the held-out documents (`evaluation/`).
"""

TRAIN = "train.jsonl"
HELD_OUT = "held_out.jsonl"
PROOF = "proof.json"
