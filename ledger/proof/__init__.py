"""Merkle trees over what a checkpoint consumed, signed statements about it, and proofs that `ledger/verifier.py` checks."""
