"""How each source family's data becomes questions: pure functions, one file per family."""
