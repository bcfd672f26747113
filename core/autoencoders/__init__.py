"""Autoencoders between images and latents: our own families, and pretrained ones from a local folder."""
