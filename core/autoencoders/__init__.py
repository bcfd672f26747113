"""Autoencoders between images and latents: our VQ-VAE, and pretrained ones from a local folder."""
