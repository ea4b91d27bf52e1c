"""Entry point of ``python -m torso.cli``, the same as ``torso``."""

import sys

from torso.cli import main
from torso.cli.imports import leave_out_working_folder

leave_out_working_folder()
sys.exit(main())
