"""How channel groups are found: one forward pass with a label on every channel."""
