"""Documents that others ask for, written from an adapter's evidence in forms of their own.

What belongs here: one module for each form, as a function of `AdapterFacts`. What does not: any fact that is not on
record.
"""
