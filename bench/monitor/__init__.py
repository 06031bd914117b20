"""What the live test of a certificate does under simulated traffic."""
