"""IJB-S: its metadata and frames, and its protocols on features."""
