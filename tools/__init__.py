"""Scripts for data, models and pictures, and what they share."""
