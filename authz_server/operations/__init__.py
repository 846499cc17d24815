"""Stage 4, classify: what a call does to which model, known or denied."""
