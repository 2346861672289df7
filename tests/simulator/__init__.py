"""A whole cluster in one process, from one seed: real cores on simulated disks, clocks and a simulated network.

A run is a function of its plan (`plan`), and a plan of its seed. First the *safety phase*: faults, clients, operators;
`invariants` looks after every step. Then the *liveness phase*: everything heals, and the cluster must come to rest
within a bounded time, serve what was accepted and hold the same log everywhere (`liveness`). `run` does both and checks
what clients saw; `report` runs many seeds; `shrink` looks for the least that still fails.
"""
