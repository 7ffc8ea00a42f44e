"""Distillation without data: a network makes the images, and is trained against the student."""
