"""IJB-B and IJB-C: the files of their distribution, and the protocols on features."""
