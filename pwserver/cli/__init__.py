"""The command line. The commands of clients load nothing of the service."""
