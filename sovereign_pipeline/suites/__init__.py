"""What models are asked: the institution's own suites, published ones of the mirror, and red-team prompts.

What belongs here: their files, cards, rows and wording. What does not: asking a model, and which answer is right
(`evaluation/`). Reviews and the leakage check of `dataset/` read them too.
"""
