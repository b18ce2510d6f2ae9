"""Replace personal data with placeholders, and store the originals in a vault that the training machine cannot read."""
