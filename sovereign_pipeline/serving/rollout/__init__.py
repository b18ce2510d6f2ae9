"""Rollout: assign users to adapters, and run the trial of a staged adapter."""
