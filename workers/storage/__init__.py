"""Where passwords are kept: a SQLite database, how it is opened, written, read and checked."""
