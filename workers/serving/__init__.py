"""How a worker serves connections: requests in, replies out, in the order of the requests."""
