"""Compare a candidate adapter with its base and the incumbent on the same items, before it is registered."""
