"""Authentication of clients, their rights, and the limits on their guesses."""
