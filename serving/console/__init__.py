"""What all commands share: arguments, standard streams, text for a terminal; and the command `offramp`."""
