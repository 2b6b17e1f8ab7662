"""What nodes and operators say to the control plane. No block words; imports only errors and model."""
