"""Compare a candidate adapter, before it is registered, with its base and with the incumbent on the same items."""
