"""The search for personal data in what passes through the gateway: requests, and answers as they are computed.

What belongs here: handing texts to the privacy room's detectors in processes of their own, and what is done with what
they find. What does not: what personal data looks like (`privacy/`), and the course of an answer (`gateway/`).
"""
