"""``python -m tokenreduce``."""

import sys

from .cli import main

sys.exit(main())
