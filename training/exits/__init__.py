"""From the logits of exported stages to calibrated, certified operating points."""
