"""The life of an adapter: its format, identity, checks, importers, blobs and registry.

Knows nothing of HTTP, of the engine, or of the server that uses it.
"""
