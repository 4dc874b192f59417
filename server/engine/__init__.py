"""schedule -> run -> collect: continuous batching over a paged cache. Knows nothing of the web."""
