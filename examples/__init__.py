"""Real adapters to try, and everything that made them: data, training, measurement."""
