"""Where `ext/` is compiled to. Imports nothing of dmcore but errors; the .pyi stubs are the contract."""
