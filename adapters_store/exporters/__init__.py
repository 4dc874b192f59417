"""Adapters as files that other projects read, and in smaller forms. Knows no base's weights."""
