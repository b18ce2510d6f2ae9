"""The reference pages that are made from the code: of the command line, and of the files that an institution edits."""
