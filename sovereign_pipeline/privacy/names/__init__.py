"""Find names of people by patterns and name models, and decide which names in a case file belong to one person."""
