"""The wire protocol: what clients and the service say to each other. No input or output."""
