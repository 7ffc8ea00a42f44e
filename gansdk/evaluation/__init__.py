"""How good images are: protocols, metrics, floors, and what a student is checked for."""
