"""Fresh environments take a quarter of an hour each: they are made before a release, where a variable asks for them."""

import os

collect_ignore = [] if os.environ.get("TOKENREDUCE_EVERY_PYTHON") else ["test_fresh.py"]
