"""What every command does with its standard streams and with text for a terminal."""
