"""What apps for Gateway Engine import of it."""
