"""What is run by hand. Programs without a suffix are scripts; the rest is run as modules."""
