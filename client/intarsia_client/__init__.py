"""The Intarsia client."""
