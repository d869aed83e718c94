"""One-line switches that let other programs write with dcwrite."""
