"""Ids and enums that every part of dmcore shares. No sizes, no offsets: the control plane imports this package."""
