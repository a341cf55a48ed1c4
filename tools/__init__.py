"""Scripts for data, models and pictures; what they share is in helpers/, alignment/ and demo/."""
