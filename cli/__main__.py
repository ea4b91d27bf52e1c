"""Entry point of ``python -m torso.cli``, the same as ``torso``."""

import sys

from torso.cli.entry import main

sys.exit(main())
