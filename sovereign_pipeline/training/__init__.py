"""Base models, the trainer's process, and the two adapters that it makes. Evaluation of an adapter is not in here."""
