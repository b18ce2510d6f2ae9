"""Running the trainer: as a child process, as one process for each device, or as a job of a Ray cluster.

What the trainer does is `loop/`.
"""
