"""Long work that outlives its request: kept in the registry's database, done by one quiet thread.

Knows nothing of HTTP, and of the engine only that it must not be disturbed.
"""
