"""To look at: which patches a reducer leaves, and an ablation as charts and as one page. Imported on demand only."""
