"""The administrator's commands on the files of a service, which may be running."""
