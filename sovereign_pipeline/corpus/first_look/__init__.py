"""Looking at a file that nobody has described yet: what it holds, and a recipe to start from.

What belongs here: facts and guesses without a recipe. What does not: reading a file for good, by what its recipe says
(`corpus/`).
"""
