"""What any process of this installation needs: files of its own account alone, locks, workers that share a machine.

What does not belong here: what a process does, and how a program begins and ends (`entry_point.py`).
"""
