"""What computes: its memory, streams, events, recordings. Knows nothing of models or adapters."""
