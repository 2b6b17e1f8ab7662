"""The control plane: plans, queue, scheduler, index. It imports only api and host: it cannot name a block."""
