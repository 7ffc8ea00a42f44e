"""The process we run in: how it was started, how it ends, and what it holds. Torch-free."""
