"""The institution's rules as typed models: recipes of lines, and the institution file."""
