"""The numbers of the grid, and nothing else: `setup.py` runs this file for the native core, so it imports nothing."""

SECTOR_BYTES = 512
"""The unit a disk is written in: a disk's size is a multiple of it."""
MIN_BLOCK_BYTES = 4096
MAX_BLOCK_BYTES = 4 << 20
DEFAULT_BLOCK_BYTES = 64 << 10
DIGEST_BYTES = 16
