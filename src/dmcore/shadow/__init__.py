"""Everything durable about a shadow: staging log, group state, digest map, redo, points. No network, no clock."""
