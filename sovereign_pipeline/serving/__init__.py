"""Serving: verified adapters behind an OpenAI-compatible gateway, and their rollout."""
