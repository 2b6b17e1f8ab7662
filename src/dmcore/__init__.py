"""dmcore: an open, native-accelerated data mover for disaster recovery. docs/ARCHITECTURE.md says where things live."""
