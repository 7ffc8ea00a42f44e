"""Values from users, plugins and files, checked before anything is made of them."""
