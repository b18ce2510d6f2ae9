"""Engines: each computes answers with one base model and several adapters."""
