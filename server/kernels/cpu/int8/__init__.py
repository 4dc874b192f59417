"""Base weights of one byte: grouped quantization, its layout, and its products."""
