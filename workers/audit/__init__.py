"""The audit record: who did what to whose password."""
