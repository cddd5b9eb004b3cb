"""What runs inside the pool: the workers that serve connections, and the writer that commits."""
