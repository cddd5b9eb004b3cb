"""What the monitor serves over HTTP: metrics, health, and the page with its history."""
