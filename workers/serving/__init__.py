"""What a worker does with connections: requests in, replies out, in their order."""
