"""The life of a registered adapter: what it holds, when its review is due, its known issues, and its recall.

What belongs here: what people and the calendar decide about an adapter once it is registered. What does not:
registering it (`registry/`), and Dagster's sensors and checks (`orchestration/`).
"""
