"""The training tasks: networks, batches and losses for the one loop."""
