"""Evaluation: rows, metrics, what their scores say and whether they say enough to promote.

Pure arithmetic over texts and log-likelihoods; knows no model, adapter, server or job.
"""
