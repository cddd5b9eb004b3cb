"""The service's TLS: certificates, handshakes and records."""
