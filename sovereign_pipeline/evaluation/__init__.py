"""The evaluation of a candidate adapter beside its base and the incumbent, on the same items, before registration.

What belongs here: the stages of the group, the incumbent, and the form of their files. Sub-packages: `arms` (models and
scores), `held_out`, `capability`, `red_team` (what is measured), `statistics`, `report` (figures and gates). What does
not: suites themselves (`suites/`), people's ratings (`review/`), and releases (`registry/`).
"""
