"""The audit record: it says who did what to whose password."""
