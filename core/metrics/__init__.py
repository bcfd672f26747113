"""Measures of image quality: distances between sets of features, and similarity of single images."""
