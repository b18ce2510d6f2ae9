"""Replace personal data by placeholders, and keep the originals where the training side cannot read them."""
