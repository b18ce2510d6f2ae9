"""The evaluation report: every figure, the criteria that a candidate must meet, and its pages."""
