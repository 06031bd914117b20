"""A server under mixed load for minutes: whether memory, file descriptors and threads stay flat."""
