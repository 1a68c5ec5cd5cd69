"""What happens to processes that are killed, stopped, replaced, or have no room."""
