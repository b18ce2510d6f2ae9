"""What the bundle carries to verify it and to install from it, for a machine that has Python alone.

The bundle holds this folder as `bundle.pyz`, a zip archive that Python runs: `python3.11 -I bundle.pyz verify DIR …`.
Its modules import the standard library and each other, nothing else. What belongs here: whatever a bare machine must be
able to do. What does not: packing (`packing.py`).
"""
