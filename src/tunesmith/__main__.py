"""``python -m tunesmith``: the command without its console script."""

from tunesmith.cli.main import main

main()
