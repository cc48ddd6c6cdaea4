"""One forward pass: attention, signals, applying reductions, and its record."""
