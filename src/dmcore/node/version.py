"""What this node tells of its software."""

from importlib.metadata import version

OWN_VERSION = version("dmcore")
