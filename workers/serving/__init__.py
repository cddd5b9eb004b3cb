"""How a worker serves connections: requests in, replies out, in order."""
