"""Takedowns: what a request means, the tombstones that carry it out, the proof that nothing is left."""
