"""Crowded scenes: many small digits among clutter, and questions that say where to look; a ViLT that answers them."""
