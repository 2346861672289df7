"""Gossip: its parts by themselves, and whole clusters of it on a simulated network, from one seed."""
