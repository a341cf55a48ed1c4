"""What the tests share: small data sets, references in float64, runs on several ranks."""
