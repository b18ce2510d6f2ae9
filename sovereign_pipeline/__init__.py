"""Sovereign Pipeline: fine-tuning of open-weight models inside one institution's perimeter, as Dagster assets."""

__version__ = "0.2.0"
