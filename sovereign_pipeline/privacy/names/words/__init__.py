"""The word lists of names, and of what is no name.

What belongs here: words alone, common knowledge written for this project; no list of persons. What does not: how they
are used (`latin_words.py`, `arabic_words.py`, `evidence.py`).
"""
