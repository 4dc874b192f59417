"""What a cheaper computation costs in quality, in process and beside others' on the same texts."""
