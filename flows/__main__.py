"""`python -m flows`: the command `ontogeny`, where it is not on the path."""

from flows.cli import app

app(prog_name="ontogeny")
