"""`python -m reskd`: the command, where the console script is not on the path."""

import sys

from reskd.common.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
