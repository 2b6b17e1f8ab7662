"""File systems for the targets' tests."""

from tests.filesystems import small_file_system, xfs

__all__ = ["small_file_system", "xfs"]
