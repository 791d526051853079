"""From a network to a program, and from a program to results on a co-processor."""
