"""Key providers: who wraps a plan's keys. Imports nothing of dmcore but errors and model."""
