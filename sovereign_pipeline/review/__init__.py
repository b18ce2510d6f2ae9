"""Blind review: people compare a candidate with what it would replace, without knowing which answer is whose."""
