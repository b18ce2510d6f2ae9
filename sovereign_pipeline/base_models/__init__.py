"""Base models: their cards under `data/models/`, fetching, verifying before each use, and their shape."""
