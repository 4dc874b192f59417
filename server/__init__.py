"""Answers requests: HTTP in, tokens out.

Read from the wire down: api, engine, model, adapters, kernels.
"""

__version__ = "0.1.0"
