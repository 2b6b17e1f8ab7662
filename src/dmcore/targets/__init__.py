"""Targets: a volume to write, a snapshot of it. Nothing of compression, keys, TLS or jobs."""
