"""Sovereign Pipeline: fine-tuning of open-weight models inside one institution's perimeter, as Dagster assets."""

__version__ = "0.1.0"
