"""The registry: the record of each registered adapter, and the proof that it still holds.

What belongs here: the adapter's record and bill of materials, registration, verification, and the mirror in MLflow.
What does not: training or evaluating adapters, the database itself (`ledger/`), and wiring into Dagster.
"""
