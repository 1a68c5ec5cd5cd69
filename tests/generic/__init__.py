"""Class-based consumers, over real sockets."""
