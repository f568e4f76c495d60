"""`python -m streammig`."""

from streammig.cli import main

main()
