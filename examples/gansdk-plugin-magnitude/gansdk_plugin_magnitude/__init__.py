"""A gansdk plugin: prune channels by the size of the weights that read them."""
