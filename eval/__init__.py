"""Evaluation: protocols are NumPy on embeddings; only features.py runs a network."""
