"""The grid, extents and digests as values."""
