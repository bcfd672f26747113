"""Denoising networks, by family."""
