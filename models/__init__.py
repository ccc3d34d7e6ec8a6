"""One room a system: the net, its published checkpoints, its card. Import as `visionsparse.models.SYSTEM`."""
