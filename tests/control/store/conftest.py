"""A file system to fill."""

from tests.filesystems import small_file_system

__all__ = ["small_file_system"]
