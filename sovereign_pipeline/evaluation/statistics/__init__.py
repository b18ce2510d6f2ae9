"""Paired statistics: intervals of differences, and the rule by which a difference passes a margin.

Numbers in, numbers out: no model, no file and no recipe. Which figures are compared is in the packages that measure.
"""
