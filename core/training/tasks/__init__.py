"""What is trained, a task each: networks, batches and losses for the one loop."""
