"""The registry's schema as steps, run by Alembic when a registry is opened; forward only.

A step that has been released never changes: the next change is a step of its own.
"""
