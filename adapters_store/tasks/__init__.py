"""Thirty short English tasks, made from packages of public registries.

Owns where their rows come from and how these are split. Knows nothing of models or adapters.
"""
