"""`sovereign doctor`: what an installation needs, examined one by one, each with what puts it right. Changes nothing.

What belongs here: looking. What does not: what a finding is about, which its own room knows.
"""
