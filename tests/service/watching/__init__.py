"""What is to be seen of a running service: metrics, health, the page and `pwserver top`."""
