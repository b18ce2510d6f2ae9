"""Record, register and verify adapters, and mirror them in MLflow."""
