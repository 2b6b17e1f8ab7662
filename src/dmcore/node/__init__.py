"""What both kinds of node are: settings, aliases and roots, identity, pairing, logging."""
