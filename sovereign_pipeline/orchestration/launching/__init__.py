"""Launching the trainer from an asset, so that its progress streams into the run's log.

What belongs here: the launcher that `institution.yaml` names, and what it needs of Dagster. What does not: the
trainer's process itself (`training/processes/`).
"""
