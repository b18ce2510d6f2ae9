"""The gates of `sft_adapter` and `aligned_adapter`.

Each computes its verdict from files, never from the report, except where it checks the report itself. The gate on the
parent adapter is `training/continuation.py`; the gates are declared in `training/stages.py`.
"""
