"""Dagster wiring: assets, checks, sensors, jobs, resources, partitions, and running a line from the command line.

What belongs here: turning stages into assets and artifacts into asset pages. What does not: any rule about documents,
models or releases; the rooms know nothing of Dagster.
"""
