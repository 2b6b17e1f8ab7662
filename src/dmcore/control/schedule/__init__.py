"""What time itself brings about: cycles that are due, points that are too old."""
