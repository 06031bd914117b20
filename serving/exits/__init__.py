"""The exit policy, the options of a request, and the operating points in force."""
