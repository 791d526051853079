"""The ``opennpe`` command. Every verb is also a function of the module that bears its work."""
