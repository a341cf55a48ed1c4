"""Robustness to misalignment and degradation: perturbed images, curves of accuracy, pictures of them."""
