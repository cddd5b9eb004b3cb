"""Where passwords are kept. The rest does not know that it is SQLite."""
