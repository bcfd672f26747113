"""The library behind the stages: mathematics, models, data, training, metrics. It does not print or read argv."""
