"""Models in the formats of others: folders of diffusers, checkpoints of the DiT authors."""
