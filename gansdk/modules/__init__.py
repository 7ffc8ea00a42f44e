"""Somebody else's nn.Module, handled without editing it: its weights, layers, feature maps and traces."""
