"""The registry: the record of each registered adapter, and the proof that it still holds."""
