"""Kills training at points that were listed before, resumes it, and compares what it ends in."""
