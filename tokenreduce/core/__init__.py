"""Values at a site: tokens and their signals, what goes, and what is left."""
