"""Models that predict BOLD from features, and how they are trained."""
