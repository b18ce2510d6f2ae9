"""The life of a registered adapter: its state and who agreed to it, what it holds, its reviews, issues and recall.

What belongs here: what people and the calendar decide about an adapter once it is registered. What does not:
registering it (`registry/`), reading its state (`record/catalog.py`), the rules of the institution
(`policy/institution.py`), Dagster's sensors and checks (`orchestration/`), and serving what is in production.
"""
