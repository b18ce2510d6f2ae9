"""The registry: what an adapter is on record as, and proof that the record still holds.

What belongs here: the adapter's record and bill of materials, the database that only grows, registration, verification,
and the mirror in MLflow. What does not: training or judging adapters, and wiring into Dagster.
"""
