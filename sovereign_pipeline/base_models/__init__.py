"""Read base models' cards in `data/models/`, fetch and verify the models, and read their shape."""
