"""Who a client is, what it may do, and how often it may guess."""
