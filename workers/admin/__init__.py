"""What an administrator does to the files of a service, whether it runs or not."""
