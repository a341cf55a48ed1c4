"""Readers of the files that test sets come in."""
