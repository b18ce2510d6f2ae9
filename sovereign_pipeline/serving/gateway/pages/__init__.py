"""The two pages for people: `/` to try a line, and `/admin` to see how it stands with every line.

What belongs here: the documents a browser gets (`shells.py` puts each together), and what `/admin` shows
(`overview.py`). What does not: answers and feedback, which the pages ask for as any other caller does.
"""
