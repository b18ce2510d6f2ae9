"""The web pages of the registry and of artifacts."""
