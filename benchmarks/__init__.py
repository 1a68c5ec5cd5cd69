"""Server CPU and memory a message and a socket, next to other servers."""
