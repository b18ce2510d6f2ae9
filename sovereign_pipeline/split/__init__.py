"""Assign every document to training or held-out, and prove that no group crosses. This module names a split's files."""

TRAIN = "train.jsonl"
HELD_OUT = "held_out.jsonl"
PROOF = "proof.json"
