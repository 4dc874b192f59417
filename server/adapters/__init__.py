"""Adapters on the device: which are resident, and how a step's tokens meet their deltas."""
