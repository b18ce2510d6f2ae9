"""Assign every document to training or held-out, and prove that nothing crosses. This module names the files of a
split."""

TRAIN = "train.jsonl"
HELD_OUT = "held_out.jsonl"
PROOF = "proof.json"
