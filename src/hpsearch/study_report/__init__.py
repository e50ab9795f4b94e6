"""What a study shows to people."""
