"""What a password is: its row, names, versions and seal. No database is opened here."""
