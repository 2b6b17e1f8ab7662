"""The schema's history. `upgrade.py` runs it; every version here stays as it was released."""
