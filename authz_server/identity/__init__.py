"""Stage 3, identify: who is calling, verified or denied."""
