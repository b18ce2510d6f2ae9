"""Rollout: the assignment of users to adapters, and the trial of a staged adapter."""
