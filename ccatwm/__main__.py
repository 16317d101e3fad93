"""`python -m ccatwm`. Touches: nothing itself."""

from ccatwm.cli.main import main

main()
