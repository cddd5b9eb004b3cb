"""What applications import: the clients, and all that they need to reach a service."""
