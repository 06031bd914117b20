"""Training that is killed, resumed, and compared with an undisturbed run."""
