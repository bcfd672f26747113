"""Numbers that say how good images are: distances between sets of features, and likeness of single images."""
