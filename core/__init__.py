"""The parts that stages are made of: mathematics, models, data, training, metrics. Prints nothing, reads no argv."""
