"""Other projects' adapter files as adapters here. For offline tools; no server imports this."""
