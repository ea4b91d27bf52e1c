"""``python -m torso.cli`` is ``torso``."""

import sys

from torso.cli.entry import main

sys.exit(main())
