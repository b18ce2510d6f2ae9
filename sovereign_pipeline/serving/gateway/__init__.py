"""The gateway: OpenAI's API in front of the engines, for authenticated callers."""
