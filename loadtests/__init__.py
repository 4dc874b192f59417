"""Benchmarks that speak HTTP to a running server; both sides in one go, ratios printed."""
