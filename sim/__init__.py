"""Whole networks, fast and exact to the bit (golden is the judge)."""
