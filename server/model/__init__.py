"""The frozen base: checkpoint in, logits out."""
