"""Loss terms: pure functions of images and features."""
