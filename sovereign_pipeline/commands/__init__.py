"""The groups of commands of the command line, by subject, and how they print.

What belongs here: wording, tables, exit status. What does not: any decision; each command calls a package below.
`cli.py` adds the groups and holds the commands that stand alone.
"""
