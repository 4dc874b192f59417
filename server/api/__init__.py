"""The wire: schemas, routes, streams. Domain objects below, JSON above."""
