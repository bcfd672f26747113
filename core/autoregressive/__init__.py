"""Generators that predict tokens of a codec, coarse to fine."""
