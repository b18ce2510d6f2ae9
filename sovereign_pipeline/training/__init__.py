"""Training: the trainer's process, its guards, and the stages `sft_adapter` and `aligned_adapter` with their gates.

What does not belong here: verifying base models (`base_models/`) and evaluating an adapter (`evaluation/`).
"""
