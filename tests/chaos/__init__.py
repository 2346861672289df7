"""A whole cluster of agents in one process, from one seed: what `docs/simulation.md` tells.

The Raft core, the run table, the driver's waiters, both sides of the leases, the worker, presence, the planner's loop,
forwarding and gossip are the product's own code. They run on an event loop whose time, threads and network are the
simulation's (`loop`). Simulated are disks and network (`tests.simulator`), clocks, the watchdog's process, the engine
and the world in which attempts run (`engine`), which is where P3 is looked at.
"""
