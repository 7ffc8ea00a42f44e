"""Traced programs (torch.export): made of a module, checked, and run without torch.export."""
