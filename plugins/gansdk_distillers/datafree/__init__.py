"""Data-free distillation: images made by a network that is trained against the student (Zhang et al., CVPR 2021)."""
