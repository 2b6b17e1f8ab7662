"""What appliance and connector say to each other over TLS 1.3 (docs/protocol.md)."""
