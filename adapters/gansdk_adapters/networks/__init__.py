"""Reference networks, built from their sizes."""
