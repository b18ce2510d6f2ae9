"""Learning from a reward: sampling replies, judging them by a tool, and proximal policy optimisation.

Job, guards on the finished adapter, checkpoints, locks and launcher are those of every training (`training/`). What
does not belong here: learning from rows (`loop/`), and the choices of a recipe (`policy/training/rlhf.py`).
"""
