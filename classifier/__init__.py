"""The engines of PartialFC: one step over the classes that a rank holds. Used by partial_fc.py alone."""
