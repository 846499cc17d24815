"""What every suite shares: how long properties are searched."""

import os

from hypothesis import settings

# The gate is the same on every run; `HYPOTHESIS_PROFILE=long` searches on.
settings.register_profile("gate", derandomize=True, deadline=None, database=None)
settings.register_profile("long", max_examples=5_000, deadline=None)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "gate"))
