"""The life of a registered adapter: its state and who agreed to it, what it holds, its reviews, issues and recall."""
