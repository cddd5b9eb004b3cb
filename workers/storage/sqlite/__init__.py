"""SQLite behind the interface of `workers.storage`: one file for one machine."""
