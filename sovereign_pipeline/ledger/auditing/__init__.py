"""Reading a ledger as somebody who trusts nobody: without writing, by the trust root, and with what rights it is kept.

What belongs here: what an auditor or an administrator asks of a ledger that is there. What does not: its acts.
"""
