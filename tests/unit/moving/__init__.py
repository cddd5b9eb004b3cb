"""Moving passwords in and out: files, names, runs."""
