"""Define and load the institution's rules as typed models: the recipes of lines of adapters, and `institution.yaml`."""
