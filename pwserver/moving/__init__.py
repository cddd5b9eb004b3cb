"""Moving passwords in from files that other password managers export, and out into such files."""
