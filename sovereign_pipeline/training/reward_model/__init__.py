"""Reward models: a score for replies, learned from preference pairs, and what it is worth on held-out pairs.

What does not belong here: what is learned from a score, and the steps of a training, which are `loop/`'s.
"""
