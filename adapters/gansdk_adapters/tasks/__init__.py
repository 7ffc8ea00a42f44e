"""The losses, discriminators and optimisation of the families that are trained adversarially."""
