"""`python -m payproc`: the same as the command `payproc`."""

from payproc.cli.main import main

main()
