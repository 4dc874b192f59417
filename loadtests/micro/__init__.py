"""Benchmarks of single parts, in process: these may import what they measure."""
