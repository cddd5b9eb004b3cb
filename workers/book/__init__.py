"""A password's row, name, versions and seal. Nothing here opens a database."""
