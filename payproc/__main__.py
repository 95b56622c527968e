"""`python -m payproc`: the same as the command `payproc`."""

from payproc.cli import main

main()
