"""What only a GPU can show, measured beside the CPU of the same machine."""
