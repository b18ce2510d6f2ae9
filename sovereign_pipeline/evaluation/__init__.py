"""What an adapter is worth before it may be registered, always beside its base and the incumbent, on the same items.

What belongs here: suites, the private held-out slice, the red team, the statistics over them, the report and its gates.
What does not: people's ratings (`review/`), and who may release what (`registry/`).
"""
