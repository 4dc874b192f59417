"""Training of sparse adapters: masks, trainable deltas, and the schedule that joins them."""
