"""Who may ask a service of this installation, and where it listens: loopback, host names, the institution's proxy.

What does not belong here: what is served, and what a caller may do (`serving/`, `orchestration/`).
"""
