"""The command line in its parts, by what they are about, and what all parts share: printing and opening.

What belongs here: words, tables, exit status. What does not: deciding anything; each command calls a room. `cli.py`
mounts the parts and holds the commands that stand alone.
"""
