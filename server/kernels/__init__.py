"""The arithmetic of a step. `interface.py` is the law, `reference.py` the specification."""
