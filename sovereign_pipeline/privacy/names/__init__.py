"""Names of people: found by patterns and name models, and joined to persons within a case file."""
