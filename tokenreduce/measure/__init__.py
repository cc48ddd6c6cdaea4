"""What a model costs: multiply-adds, time, memory."""
