"""QMUL-SurvFace: its files, and its protocols on features."""
