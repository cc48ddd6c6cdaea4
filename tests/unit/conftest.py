"""Settings of the property tests: no deadline (the machine is shared), repeatable examples, no database on disk."""

from hypothesis import settings

settings.register_profile("laws", deadline=None, database=None, derandomize=True, max_examples=60)
settings.load_profile("laws")
