"""The gateway: OpenAI's API before the engines, for authenticated callers."""
