"""The HTTP surface: one module a noun. Each route checks who asks, opens one transaction, calls what does the work."""
