"""Pictures of the mathematics: plain functions give the numbers, and the drawing above them is thin."""
