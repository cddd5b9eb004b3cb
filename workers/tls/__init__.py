"""TLS as the service speaks it: certificates, handshakes and records."""
