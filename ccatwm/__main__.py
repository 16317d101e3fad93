"""`python -m ccatwm`. Touches: nothing itself."""

from ccatwm.starting import main

main()
