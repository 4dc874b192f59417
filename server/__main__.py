"""`python -m server` is `intarsia serve`, also where another package is called `server`."""

from server.cli import serve

serve()
