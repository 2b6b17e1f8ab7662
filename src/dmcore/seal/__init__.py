"""Frames and streams of the sealed format, version 1 (docs/format.md)."""
