"""The listener process: it accepts connections, and starts and watches the other processes."""
