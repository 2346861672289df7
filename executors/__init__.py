"""Engines that run attempts; `base.py` is their contract."""
