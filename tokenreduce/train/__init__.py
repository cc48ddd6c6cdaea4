"""Training with fewer tokens: a teacher that has them all, and a loop that keeps the best."""
