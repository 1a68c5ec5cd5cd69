"""Class-based consumers, with the names and the meaning of Django Channels 4."""
