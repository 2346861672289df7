"""How agents talk to each other: frames over authenticated connections. What is in them is the agent's matter.

frames.py   the bytes of a frame, pure      base.py    what a transport promises
zmq.py      over ZeroMQ, encrypted          zap.py     who may connect
memory.py   inside one process, for tests   errors.py
"""
