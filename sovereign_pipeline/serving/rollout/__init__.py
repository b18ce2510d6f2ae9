"""Rollout: which adapter answers whom, and the hold of a staged adapter."""
