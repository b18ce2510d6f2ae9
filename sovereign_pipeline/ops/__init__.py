"""Pack bundles that cross the air gap, and back up and restore an installation."""
