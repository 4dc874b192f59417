"""lm-evaluation-harness, as it is released, against our server and against transformers."""
