"""The operator's commands. They read and change the model repository, the state folder and the token file."""
