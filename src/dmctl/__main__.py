"""`python -m dmctl`."""

from dmctl.main import main

main()
