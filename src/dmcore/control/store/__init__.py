"""The database: tables, their migrations, transactions."""
