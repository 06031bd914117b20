"""A server under mixed load for minutes: whether its memory, file descriptors and threads stay flat."""
