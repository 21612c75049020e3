"""`python -m flambed.cli` is flambectl."""

import sys

from flambed.cli import main

sys.exit(main())
