"""Where an answer may leave: the exit policy, a request's options, and the operating points in force."""
