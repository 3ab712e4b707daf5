"""What the end-to-end tests stand on: the real binary, real servers behind it, clients that can misbehave.

Everything listens on loopback, every wait has a deadline, and every process that is started is ended again.
"""
