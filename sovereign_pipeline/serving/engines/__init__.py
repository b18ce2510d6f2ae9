"""Engines: each runs one base model with several adapters."""
