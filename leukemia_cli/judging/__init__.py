"""Numbers about predictions: arrays in, values out."""
