"""What happens inside the trainer's process: rows, batches, model, losses, guards, checkpoints, report.

Starting that process is `processes/`; whether the training fits into memory is `sizing/`.
"""
