"""`python -m dive` is the installed `dive`."""

from dive.cli import main

main()
