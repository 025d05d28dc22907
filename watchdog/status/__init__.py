"""What the mesh tells others: JSON, health and metrics over HTTP."""
