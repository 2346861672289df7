"""Pure: what users write, text in and values out."""
