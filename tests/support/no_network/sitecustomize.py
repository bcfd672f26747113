"""Blocks the network in every Python process that a test starts: Python imports this module by its name."""

from blocked import block

block()
