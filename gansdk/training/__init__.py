"""Training: the loop, the run around it, its processes, and what it leaves on disk."""
