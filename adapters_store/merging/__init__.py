"""Merging adapters: methods as rows of a table, and one layer's arithmetic, sparse and exact.

Knows deltas (`adapters_store.adapter`) and their digests; no files, no requests, no engine.
"""
