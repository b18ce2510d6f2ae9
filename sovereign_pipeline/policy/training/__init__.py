"""The `training` section of a recipe, and the sections in it.

What does not belong here: where the trainer's process runs (`policy/trainer.py`), and the training itself
(`training/`).
"""
