"""Calibration, thresholds and certificates of exits, from the logits of exported stages."""
