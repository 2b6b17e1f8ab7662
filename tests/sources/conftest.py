"""File systems for the sources' tests."""

from tests.filesystems import xfs

__all__ = ["xfs"]
