"""Memory and time of a training before it starts: the arithmetic, the check against free memory, the graphics cards."""
