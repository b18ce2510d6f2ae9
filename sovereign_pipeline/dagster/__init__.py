"""Dagster: assets, checks, sensors, jobs, asset pages and the processes of `sovereign up`."""
