"""The SQLite database that holds the passwords: opening, writing, reading and checking it."""
