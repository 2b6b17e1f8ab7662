"""The copy of the connectors' catalogues, and which points the plans' tiers let go."""
