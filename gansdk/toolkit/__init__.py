"""Small parts for plugin authors."""
