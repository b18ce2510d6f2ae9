"""Write signed evidence packages about adapters, and verify them."""
