"""`python -m sdcomp` is the command `sdcomp`."""

import sys

from sdcomp.cli.main import main

sys.exit(main())
