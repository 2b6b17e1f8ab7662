"""Databases for everything of the control plane: see databases.py."""

from tests.control.databases import database, postgresql, postgresql_database, sqlite_database, sqlite_template

__all__ = ["database", "postgresql", "postgresql_database", "sqlite_database", "sqlite_template"]
