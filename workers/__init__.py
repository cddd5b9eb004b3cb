"""The service's child processes, the book that they keep, and the administrator's commands."""
