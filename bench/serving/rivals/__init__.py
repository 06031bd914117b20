"""What a user would run instead, each as it starts in a process of its own."""
