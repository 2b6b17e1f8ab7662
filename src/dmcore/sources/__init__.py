"""Sources: snapshot machines, say what changed since a token, read. No compression, keys, TLS or jobs."""
