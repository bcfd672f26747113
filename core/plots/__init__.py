"""Pictures of the mathematics: plain functions compute the numbers, a thin layer draws them."""
