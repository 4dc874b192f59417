"""Other libraries' adapter files, read exactly or refused by name."""
