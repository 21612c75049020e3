"""`python -m flambed.lab`: the same as `flambed lab`."""

import sys

from flambed.lab import main

sys.exit(main())
