"""Read base models' cards under `data/models/`, fetch and verify the models, and read their shape."""
