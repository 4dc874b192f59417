"""Evaluations: subjects asked rows of data sets by the engine itself, scored, kept, compared.

Knows nothing of HTTP, and of a request's names only what they stood for when it was taken in.
"""
