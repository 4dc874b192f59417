"""`make bench`: this server and its rivals on one machine, one after the other, the same asks."""
